"""A copy of a model for inference alone: batch norms folded, convolutions packed and fused."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from saliency_lab.frozen import bare_copy
from saliency_lab.inference.convolution import FrozenConv
from saliency_lab.inference.plain_layers import with_plain_layers
from saliency_lab.inference.pooled import PooledConv

_IDLE = (nn.Identity, nn.Dropout, nn.Dropout2d)
_ADDITIONS = (operator.add, operator.iadd, torch.add)


class _Tracer(fx.Tracer):
    """Keeps a layer whole if its path depends on its input, as VGG's head does in timm."""

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        entered = self.module_stack.copy()
        try:
            return super().call_module(m, forward, args, kwargs)
        except fx.proxy.TraceError:
            self.module_stack = entered  # the layers inside were left in a hurry
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


class _Shapes(fx.Interpreter):
    """Notes the shape of each tensor; PyTorch's own such pass prints a traceback if one fails."""

    def run_node(self, n: fx.Node) -> Any:
        try:
            found = super().run_node(n)
        except Exception as error:
            raise RuntimeError(f"its copy fails at {n.name}: {first_line(error)}") from error
        if isinstance(found, Tensor):
            n.meta["shape"] = found.shape
        return found


def first_line(error: Exception) -> str:
    """An error in one short line: what it says first, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def traced_copy(model: nn.Module) -> fx.GraphModule:
    """A frozen copy in eval mode as a graph of layers, sharing nothing with the model.

    Raises:
        fx.proxy.TraceError: a model that cannot be traced, such as one whose path depends on its
            input.
    """
    frozen = with_plain_layers(bare_copy(model, computing=False).eval().requires_grad_(False))
    tracer = _Tracer()
    try:
        graph = tracer.trace(frozen)
    except Exception as error:  # a forward may do anything with what only stands for a tensor
        raise fx.proxy.TraceError(first_line(error)) from error
    traced = fx.GraphModule(frozen, graph)
    _answer_with_logits(traced.graph)
    traced.graph.eliminate_dead_code()  # what a layer recorded before it turned out opaque
    traced.recompile()
    return traced


def _answer_with_logits(graph: fx.Graph) -> None:
    """Of a model that returns a mapping, the logits alone."""
    end = next(node for node in graph.nodes if node.op == "output")
    answer = end.args[0]
    if isinstance(answer, Mapping) and "logits" in answer:
        end.args = (answer["logits"],)


def folded_copy(model: nn.Module) -> fx.GraphModule:
    """A traced copy whose batch norms are part of the convolutions before them, channels-last.

    Layers keep their names; those that do nothing in eval mode are gone.

    Raises:
        What `traced_copy` raises.
    """
    folded = cast(fx.GraphModule, fuse(traced_copy(model), inplace=True, no_trace=True))
    layers = dict(folded.named_modules())
    for node in list(folded.graph.nodes):
        if node.op == "call_module" and type(layers[node.target]) in _IDLE:
            node.replace_all_uses_with(node.args[0])
            folded.graph.erase_node(node)
    folded.delete_all_unused_submodules()
    folded.recompile()
    folded.requires_grad_(False)
    return folded.to(memory_format=torch.channels_last)


def packed_copy(folded: fx.GraphModule, images: Tensor) -> fx.GraphModule:
    """A folded model with its convolutions, and the ReLU or addition behind them, as FrozenConv.

    For the CPU, whose kernels these are; `images` (B, C, H, W) is a typical input.
    """
    packed = copy.deepcopy(folded)
    _pool_first(packed)
    _Shapes(packed).run(images.clone())  # the model may work in place
    for node in list(packed.graph.nodes):
        conv = _layer(packed, node)
        if type(conv) is nn.Conv2d and _packable(conv):
            _pack(packed, node, conv)
    packed.delete_all_unused_submodules()
    packed.graph.lint()
    packed.recompile()
    return packed


def _pool_first(model: fx.GraphModule) -> None:
    """Swap each ReLU with the max-pool behind it, which leaves it a fraction of the numbers.

    Values are the same, and gradients too: where a window's maximum is positive both orders pick
    the same element, and elsewhere the ReLU lets nothing through in either.
    """
    for pool in list(model.graph.nodes):
        relu = pool.args[0] if type(_layer(model, pool)) is nn.MaxPool2d else None
        if not isinstance(relu, fx.Node) or type(_layer(model, relu)) is not nn.ReLU:
            continue
        if len(relu.users) == 1:
            pool.replace_all_uses_with(relu)
            pool.args = (relu.args[0], *pool.args[1:])
            relu.args = (pool,)
            pool.append(relu)


def _pack(model: fx.GraphModule, node: fx.Node, conv: nn.Conv2d) -> None:
    """Replace a convolution and what can be fused behind it by one layer."""
    chain, inputs = [node], [node.args[0]]
    follower = _only_user(node)
    pool = _layer(model, follower) if follower is not None else None
    if follower is not None and follower.target in _ADDITIONS and not follower.kwargs:
        other = next((term for term in follower.args if term is not node), None)
        if isinstance(other, fx.Node) and other < node and _shape(other) == _shape(node):
            chain, inputs = [node, follower], [node.args[0], other]
    elif follower is not None and type(pool) is nn.MaxPool2d and not pool.return_indices:
        chain = [node, follower]
    relu = _only_user(chain[-1])
    if relu is not None and type(_layer(model, relu)) is nn.ReLU:
        chain.append(relu)
    shape, rectified = _shape(inputs[0]), chain[-1] is relu
    layer: nn.Module = FrozenConv(conv, rectified, shape)
    if type(pool) is nn.MaxPool2d and follower in chain:
        layer = PooledConv(conv, pool, rectified, shape, _shape(node))
    last = chain[-1]
    name = f"{node.name}_packed"  # of the node: a layer may be used more than once
    model.add_submodule(name, layer)
    with model.graph.inserting_before(last):
        packed = model.graph.call_module(name, tuple(inputs))
    packed.meta = last.meta
    last.replace_all_uses_with(packed)
    # The last first, so that each is unused when it goes.
    for fused in reversed(chain):
        model.graph.erase_node(fused)


def _packable(conv: nn.Conv2d) -> bool:
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _layer(model: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return model.get_submodule(str(node.target)) if node.op == "call_module" else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _shape(node: object) -> torch.Size:
    return node.meta["shape"]  # type: ignore[attr-defined]
