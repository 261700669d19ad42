"""What a model says of many altered copies of several images, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from saliency_lab.attribution.maps import BatchMaps, chosen_targets
from saliency_lab.errors import UserError
from saliency_lab.frozen import (
    checked_logits,
    frozen,
    intact_logits,
    placed_images,
    require_classes,
)
from saliency_lab.inference.engine import PreparedModel
from saliency_lab.inputs import given_model, require_finite_logits, taking

Forward = Callable[[Tensor], Tensor]

# Pixel values altered at once: 111 images of 224×224, 5461 of 32×32.
_VALUES = 1 << 24


class NonFiniteAlteredError(UserError):
    """Logits or maps of altered images are NaN or infinite, though the intact ones' are finite.

    Args:
        images: whose copies they are, by place or id.
        altered: what they are copies with, for the message.
        what: is not finite.
    """

    def __init__(self, images: Sequence[object], altered: str, what: str = "logits") -> None:
        self.images, self.altered, self.what = tuple(images), altered, what
        shown = ", ".join(str(image) for image in self.images[:5])
        more = f" and {len(self.images) - 5} more" if len(self.images) > 5 else ""
        super().__init__(
            f"Expected finite {what} of {altered}, but got NaN or infinity for copies of images "
            f"{shown}{more}."
        )

    def named(self, ids: Sequence[object]) -> NonFiniteAlteredError:
        """The same, where images were told by their places in a batch with these ids."""
        images = [ids[image] if isinstance(image, int) else image for image in self.images]
        return NonFiniteAlteredError(images, self.altered, self.what)


def require_finite_altered(scores: Tensor, intact: Tensor, altered: str) -> None:
    """Nothing, or a refusal of scores that say nothing, once for a whole batch.

    Args:
        scores: of altered copies of each image, (B, …).
        intact: of the intact images, (B,). Where it is not finite itself, the image is refused or
            left out elsewhere.
        altered: see `NonFiniteAlteredError`.

    Raises:
        NonFiniteAlteredError: some of the scores are not finite.
    """
    _refuse(intact.isfinite() & ~scores.isfinite().reshape(len(scores), -1).all(1), altered)


def require_finite_maps(found: BatchMaps, intact: Tensor, altered: str) -> Mapping[str, Tensor]:
    """Maps of altered copies, one of each image, or a refusal if they say nothing.

    Args:
        found: what was computed of the copies.
        intact: logits of the intact images, (B, K), as in `require_finite_altered`.
        altered: see `NonFiniteAlteredError`.

    Raises:
        NonFiniteAlteredError: logits or maps of some copies are not finite.
    """
    finite = found.finite.to(intact.device)
    _refuse(intact.isfinite().all(1) & ~finite, altered, "logits and maps")
    return found.maps


def _refuse(lost: Tensor, altered: str, what: str = "logits") -> None:
    if bool(lost.any()):
        raise NonFiniteAlteredError(lost.nonzero().flatten().tolist(), altered, what)


def altered_scores(
    forward: Forward,
    images: Tensor,
    targets: Tensor,
    copies: int,
    altered: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Logits of the targets on altered copies of each image, float64 (B, copies).

    Args:
        forward: from images (n, C, H, W) to logits (n, K).
        images: (B, C, H, W).
        targets: int64 (B,).
        copies: of each image.
        altered: from images' places (n,) and copies' numbers (n,) to altered images (n, C, H, W).
    """
    return _of_copies(forward, images, copies, altered, targets, target_logits)


def altered_probabilities(
    forward: Forward,
    images: Tensor,
    targets: Tensor,
    copies: int,
    altered: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Softmax of the targets on altered copies of each image; see `altered_scores`."""
    return _of_copies(forward, images, copies, altered, targets, target_probabilities)


def target_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """The targets' logits, float64 (B,)."""
    return logits.double().gather(1, targets[:, None]).squeeze(1)


def target_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """The targets' softmax, float64 (B,); a UserError where there is one class only."""
    require_classes(logits)
    return target_logits(logits.double().log_softmax(1), targets).exp()


@contextmanager
def lent(
    model: nn.Module | PreparedModel, images: Tensor, targets: Tensor | int | None = None
) -> Iterator[tuple[Forward, Tensor, Tensor]]:
    """A model's forward, its logits of the intact images, and the classes that are scored.

    A module is in eval mode and frozen until the end; what it is given goes to its device and
    what it says comes back to the images'.

    Args:
        targets: (B,), or one for all; None: the classes that the model predicts.

    Raises:
        UserError: a model that is no module, that does not take the images or whose logits are not
            finite; images that are not floating (B, C, H, W), targets that do not fit them.
    """
    if isinstance(model, PreparedModel):
        logits = _intact(model.logits, images, model.original)
        yield model.logits, logits, chosen_targets(logits, targets)
        return
    given_model(model)
    placed = placed_images(model, images)

    def forward(altered: Tensor) -> Tensor:
        return checked_logits(model(altered.to(placed)), len(altered)).to(images.device)

    with torch.no_grad(), frozen(model):
        logits = _intact(lambda whole: intact_logits(model, whole), images, model)
        yield forward, logits, chosen_targets(logits, targets)


def _of_copies(
    forward: Forward,
    images: Tensor,
    copies: int,
    altered: Callable[[Tensor, Tensor], Tensor],
    targets: Tensor,
    read: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    work = torch.arange(len(images) * copies, device=images.device)
    size = max(1, _VALUES // images[0].numel()) if len(images) else 1
    found = []
    with torch.no_grad():
        for part in work.split(size):
            places = torch.div(part, copies, rounding_mode="floor")
            logits = forward(altered(places, part % copies))
            found.append(read(logits, targets[places]))
    return torch.cat(found).view(len(images), copies)


def _intact(asked: Forward, images: Tensor, model: nn.Module) -> Tensor:
    """The logits of the intact images, finite, on the images' device."""
    with taking(model, images):
        logits = asked(images).to(images.device)
    require_finite_logits(logits)
    return logits
