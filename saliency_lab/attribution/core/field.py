"""The signed per-class field of a batch: what every view is computed from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from torch import Tensor

Source = TypeVar("Source", bound=Callable[..., Any])


def input_gradients_only(source: Source) -> Source:
    """Marks a source that asks a model for logits and input gradients and nothing else.

    Such a source may be given a folded copy of the model; one that hooks layers, or looks them
    up by name or kind, needs the model itself and is not marked. A source that wraps another one
    (`base`) is marked for its own part: see `sources.reads_layers`.
    """
    source.__dict__["input_gradients_only"] = True
    return source


def expect_every_class(field: ClassField) -> None:
    """Tell a field that attributions of all its classes will be asked for.

    A field that has a method of this name may then compute them together; to others it is no news.
    """
    getattr(field, "expect_every_class", lambda: None)()


class ClassField(Protocol):
    """Attributions of every class's logit to the input, one class per image at a time.

    A source that can attribute any logit returns one of these; views stream over the classes
    through `of` and never hold more than a few classes at once, so memory does not grow with K.
    """

    logits: Tensor
    """Logits of the unmodified images, shape (B, K), detached."""

    def of(self, classes: Tensor) -> Tensor:
        """Signed attribution of logit `classes[b]` of image b.

        Args:
            classes: int64, shape (B,), each in [0, K).

        Returns:
            Shape (B, C, H, W), detached, unscaled, in the dtype of the images; positive where a
            brighter channel value raises the logit (to first order).
        """
        ...
