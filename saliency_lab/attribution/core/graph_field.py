"""Class fields that come out of one recorded forward pass, one backward per class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.propagation import Weighted
from saliency_lab.errors import UserError
from saliency_lab.frozen import checked_logits, frozen, placed_images, without_autocast
from saliency_lab.inputs import given_classes, given_tensor

# Functions of this package are rules of its own.
_OURS = "saliency_lab.attribution."


@contextmanager
def recording(model: nn.Module) -> Iterator[None]:
    """Frozen model and recorded graph, also under an outer `no_grad` or `inference_mode`."""
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        yield


def leaf(model: nn.Module, images: Tensor) -> Tensor:
    """A copy of the images, where the model is, that a graph can start from."""
    with torch.inference_mode(False):
        return placed_images(model, images).detach().clone().requires_grad_(True)


class GraphField:
    """A factor times the gradient of a logit, under rules that hold during the forward pass.

    The rules become part of the recorded graph, so the model is given back before the first
    backward, and memory is that of one graph whatever the number of classes.

    Args:
        model: from images (N, C, H, W) to logits (N, K).
        images: shape (B, C, H, W).
        rules: a context for the forward pass.
        references: shape (B, C, H, W); appended to the batch, for rules that compare the two
            halves. The field is then of the first half.
        factor: from the images and the references to what the gradient is multiplied with.
        conserves: the attributions are to sum to the logit itself, that is to its difference from
            a baseline with the logits 0.
        relevance: rules pass on relevance rather than slopes: a backward starts with the logit
            instead of 1.

    Raises:
        UserError: the logits depend on the images through operations without gradients, or rules
            are given and the model computes with autograd functions of its own, into which rules
            cannot look.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        rules: AbstractContextManager[object] | None = None,
        references: Tensor | None = None,
        factor: Callable[[Tensor, Tensor | None], Tensor] | None = None,
        *,
        conserves: bool = False,
        relevance: bool = False,
    ) -> None:
        images = given_tensor(images, "images", "(B, C, H, W)")
        self._count = len(images)
        batch = images if references is None else torch.cat([images, references])
        self._start = leaf(model, batch)
        with recording(model), rules or nullcontext():
            # A clone, because a model may begin with an in-place operation.
            logits = checked_logits(model(self._start.clone()), len(batch))
            self._scores = logits[: self._count]
        if not logits.requires_grad:
            _require_constant(model, self._start.detach(), logits)
        if rules is not None:
            _require_visible(logits)
        self._place = (images.device, images.dtype)
        self._factor = None if factor is None else factor(images, references).detach()
        self.logits = self._scores.detach().to(images.device)
        if relevance:
            with recording(model):
                self._scores = Weighted.apply(self._scores, *[self._scores.detach()] * 2)
        self.baseline_logits: Tensor | None = torch.zeros_like(self.logits) if conserves else None
        if references is not None:
            self.baseline_logits = logits[self._count :].detach().to(images.device)

    def of(self, classes: Tensor) -> Tensor:
        """Signed attribution of logit `classes[b]` of image b, shape (B, C, H, W).

        Raises:
            UserError: the classes are neither one for each image nor one for all, or they are no
                tensor and outside [0, K).
        """
        classes = given_classes(classes, self.logits)
        if not self._scores.requires_grad:  # the logits do not depend on the pixels at all
            zeros = torch.zeros_like(self._start[: self._count])
            return zeros.to(*self._place)
        with torch.inference_mode(False), torch.enable_grad(), without_autocast():
            (slope,) = torch.autograd.grad(
                chosen_scores(self._scores, classes),
                self._start,
                retain_graph=True,
                materialize_grads=True,
            )
        slope = slope[: self._count].to(*self._place)
        return slope if self._factor is None else self._factor * slope


def chosen_scores(scores: Tensor, classes: Tensor) -> Tensor:
    """The sum over the batch of each image's chosen logit, with its graph."""
    # A copy, because classes that were found in inference mode cannot enter a graph.
    return scores.gather(1, classes.to(scores.device)[:, None].clone()).sum()


def _require_constant(model: nn.Module, images: Tensor, logits: Tensor) -> None:
    """Nothing where logits without a gradient do not depend on the images, else a refusal."""
    with recording(model), torch.no_grad():
        others = checked_logits(model(1 - images), len(images))
    if not torch.equal(others, logits):
        raise UserError(
            "Expected logits that can be differentiated by the images, but `model` computes them "
            "under no_grad, or detaches them on the way"
        )


def _require_visible(logits: Tensor) -> None:
    """Nothing, or a refusal if functions that are not this package's are part of the graph."""
    seen, waiting = set(), [logits.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        function = getattr(node, "_forward_cls", None)
        if function is not None and not function.__module__.startswith(_OURS):
            raise UserError(
                "Expected `model` to consist of PyTorch's own operations, because the method "
                f"changes how they are walked back, but got the custom function "
                f"{function.__name__}."
            )
        waiting.extend(following for following, _ in node.next_functions)
