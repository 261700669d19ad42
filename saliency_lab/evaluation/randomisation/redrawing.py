"""Networks with the weights of some layers drawn anew, the rest as they were."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm

from saliency_lab.errors import UserError
from saliency_lab.frozen import bare_copy, entered_modules
from saliency_lab.models.network import Normalize

# The spread of a tensor of zeros that no initialiser draws: that of a transformer's embeddings.
_SPREAD = 0.02
# Steps of the power iteration, as many as PyTorch begins a spectral norm with.
_STEPS = 15


@dataclass(frozen=True)
class Layer:
    """Tensors that are drawn anew together."""

    name: str
    """The module that owns them; several neighbours as `lowest…highest`."""
    tensors: tuple[str, ...]
    """Their names among the model's parameters and buffers."""


def layers(model: nn.Module, images: Tensor) -> tuple[Layer, ...]:
    """The modules that own parameters or buffers, in the order in which a forward enters them.

    A module that is never entered (one whose weights are read by another one) belongs to the
    nearest module around it that is. Tensors of several modules belong to the first of them.
    What `constants` names belongs to none.

    Args:
        model: from images to logits (B, K); left unchanged.
        images: (B, C, H, W), of which one is sent through.

    Raises:
        UserError: the model has nothing that could be drawn anew.
    """
    names = ["", *entered_modules(model, images)]  # the model itself comes first, entered or not
    owners: dict[str, list[str]] = {name: [] for name in names}
    kept = constants(model)
    for name in named_tensors(model):
        if name not in kept:
            owner = name.rpartition(".")[0]
            while owner not in owners:
                owner = owner.rpartition(".")[0]
            owners[owner].append(name)
    found = tuple(Layer(name or "(model)", tuple(own)) for name, own in owners.items() if own)
    if not found:
        raise UserError(
            f"Expected `model` to have weights that can be randomised, but {type(model).__name__} "
            "has none."
        )
    return found


def grouped(found: Sequence[Layer], groups: int | None) -> tuple[Layer, ...]:
    """At most that many layers: neighbours merged into groups of nearly equal size; None: as is."""
    if groups is None or groups >= len(found):
        return tuple(found)
    size, larger = divmod(len(found), groups)
    merged, start = [], 0
    for group in range(groups):
        part = found[start : start + size + (group < larger)]
        start += len(part)
        name = part[0].name if len(part) == 1 else f"{part[0].name}…{part[-1].name}"
        merged.append(Layer(name, tuple(tensor for layer in part for tensor in layer.tensors)))
    return tuple(merged)


def constants(model: nn.Module) -> dict[str, str]:
    """Parameters and buffers that hold nothing learned, each with the reason why."""
    found = {}
    modules = dict(model.named_modules())
    for name, tensor in named_tensors(model).items():
        owner, _, own = name.rpartition(".")
        module = modules[owner]
        if not tensor.is_floating_point():
            found[name] = "an index or a counter"
        elif own in module._non_persistent_buffers_set:
            found[name] = "computed from the architecture, not stored with the weights"
        elif isinstance(module, Normalize):
            found[name] = "the mean or deviation of pixels, a convention of the input"
        elif not bool(tensor.isfinite().all()):
            found[name] = "a mask of infinities"
        elif tensor.numel() == 0:
            found[name] = "empty"
    return found


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name; one that several modules share, once."""
    return dict([*model.named_parameters(), *model.named_buffers()])


def redrawn(model: nn.Module, seed: int, draw: int) -> dict[str, Tensor]:
    """Every tensor that is learned, drawn anew; the model is left as it is.

    A module that has an initialiser of its own (`reset_parameters` without arguments) is
    initialised by it, as a new one would be: convolutions and linear layers draw, norms return to
    1 and 0 and forget their statistics. What the initialiser leaves as it was, and what belongs to
    a module without one (scales of layers, position embeddings, class tokens), is drawn from the
    normal distribution with the tensor's own mean and standard deviation; where all its entries
    are equal, with their absolute value as the deviation, or 0.02 if they are zero; and reflected
    at 0 if no entry is negative, so that a variance stays one. So every tensor changes. What a
    spectral norm divides by is found for the new weight.

    Args:
        model: whose tensors they are.
        seed, draw: with the name of a module they decide its numbers, on any device.

    Returns:
        The names of `named_tensors`, less `constants`, to tensors on the model's device.
    """
    kept = constants(model)
    wanted = {name: value for name, value in named_tensors(model).items() if name not in kept}
    found = {}
    # Initialisers draw from the process's own generator; it is put back afterwards.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for prefix, module in model.named_modules():
            own = _own_tensors(prefix, module, wanted)
            if not own:
                continue
            torch.default_generator.manual_seed(_seed(f"{seed}/{draw}/{prefix}"))
            fresh = _initialised(module)
            for name in own:
                before = wanted[name].detach()
                short = name.removeprefix(f"{prefix}.")
                value = None if fresh is None else getattr(fresh, short).detach().to(before)
                if value is None or torch.equal(value, before):
                    value = _alike(before)
                found[name] = value
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, SpectralNorm):
                    found.update(
                        _singular_vectors(f"{prefix}.{hook.name}".lstrip("."), hook, found)
                    )
    return found


class Mixtures:
    """One copy of a model whose layers are taken from the model itself or from a draw.

    Args:
        model: left unchanged, and expected not to change.
        drawn: what `redrawn` gave for it.
    """

    def __init__(self, model: nn.Module, drawn: Mapping[str, Tensor]) -> None:
        self._own = {name: tensor.detach() for name, tensor in named_tensors(model).items()}
        self._drawn = drawn
        self._copy = bare_copy(model)

    def model(self, randomised: Collection[Layer]) -> nn.Module:
        """The copy with these layers drawn anew, as it is until the next call."""
        chosen = {name for layer in randomised for name in layer.tensors}
        with torch.no_grad():
            for name, tensor in named_tensors(self._copy).items():
                tensor.copy_((self._drawn if name in chosen else self._own)[name])
        return self._copy


def _own_tensors(prefix: str, module: nn.Module, wanted: Mapping[str, Tensor]) -> list[str]:
    names = [*module._parameters, *module._buffers]
    full = [f"{prefix}.{name}" if prefix else name for name in names]
    return [name for name in full if name in wanted]


def _initialised(module: nn.Module) -> nn.Module | None:
    """A copy of the module as its own initialiser leaves it, on the CPU; None without one."""
    reset = getattr(module, "reset_parameters", None)
    if not callable(reset) or any(_is_required(p) for p in _parameters(reset)):
        return None
    fresh = bare_copy(module).cpu()
    for hook in fresh._forward_pre_hooks.values():
        hook(fresh, ())  # a computed weight is no parameter, so it is still where the module is
    fresh.reset_parameters()  # type: ignore[operator]
    return fresh


def _parameters(function: object) -> Iterator[inspect.Parameter]:
    yield from inspect.signature(function).parameters.values()  # type: ignore[arg-type]


def _is_required(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variadic


def _alike(tensor: Tensor) -> Tensor:
    """Normal numbers with the mean and spread of the tensor; see `redrawn`."""
    values = tensor.double().cpu()
    mean, spread = values.mean(), values.std(correction=0)
    if bool((values == values.flatten()[0]).all()):
        spread = mean.abs() if float(mean) else torch.tensor(_SPREAD, dtype=torch.float64)
    drawn = mean + spread * torch.randn(values.shape, dtype=torch.float64)
    if float(values.min()) >= 0 and float(values.max()) > 0:
        drawn = drawn.abs()
    return drawn.to(tensor)


def _singular_vectors(
    name: str, norm: SpectralNorm, drawn: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The vectors by which a spectral norm measures the weight called `name`, for a drawn one.

    Drawn by themselves they would measure anything, and the weight be divided by next to nothing.
    """
    original, start = drawn.get(f"{name}_orig"), drawn.get(f"{name}_u")
    if original is None or start is None:
        return {}
    matrix, u = norm.reshape_weight_to_matrix(original).double().cpu(), start.double().cpu()
    for _ in range(_STEPS):
        v = F.normalize(matrix.T @ u, dim=0)
        u = F.normalize(matrix @ v, dim=0)
    return {f"{name}_u": u.to(start), f"{name}_v": v.to(start)}


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
