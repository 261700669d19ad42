"""Maps of a batch from any source: per-class fields through views, single maps as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.completeness import explained_change
from saliency_lab.attribution.core.estimate import Estimate, EstimatedMaps
from saliency_lab.attribution.core.field import ClassField, expect_every_class
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.core.sources import (
    Source,
    source_name,
    source_output,
    takes_targets,
)
from saliency_lab.attribution.core.views import VIEWS, Channels, View, views
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.frozen import intact_logits, without_autocast
from saliency_lab.inputs import given_images, given_targets, require_classes


class NonFiniteError(UserError):
    """Logits or attributions of some images are NaN or infinite; `sample_ids` names them."""

    def __init__(self, sample_ids: Sequence[object]) -> None:
        self.sample_ids = tuple(sample_ids)
        shown = ", ".join(str(sample) for sample in self.sample_ids[:5])
        more = f" and {len(self.sample_ids) - 5} more" if len(self.sample_ids) > 5 else ""
        super().__init__(
            f"Expected finite logits and maps, but got NaN or infinity for {shown}{more}."
        )


class Completeness(NamedTuple):
    """What the attributions of a batch's targets add up to, and what they should."""

    total: Tensor
    """Sum of the attributions of each image's target, (B,), in units of the logit."""

    change: Tensor
    """S_c(image) − S_c(baseline), (B,); S_c(image) itself for relevances (LRP)."""

    @classmethod
    def joined(cls, parts: Sequence[Completeness | None]) -> Completeness | None:
        """Consecutive parts of a batch as the whole."""
        known = [part for part in parts if part is not None]
        if not known:
            return None
        return cls(*(torch.cat(values) for values in zip(*known, strict=True)))


@dataclass(frozen=True)
class BatchMaps:
    """What `maps` found out about a batch."""

    maps: dict[str, Tensor]
    """One unscaled map (B, H, W) per view, detached, on the device of the images."""

    targets: Tensor
    """The explained class of each image, int64 (B,)."""

    logits: Tensor
    """Logits (B, K) of the intact images."""

    finite: Tensor
    """Whether everything that went into an image's maps was finite, bool (B,)."""

    completeness: Completeness | None = None
    """How complete the target's attributions are, where the source claims that they are."""

    estimate: Estimate | None = None
    """How exactly the attributions are known, where the source draws until it knows."""

    @classmethod
    def joined(cls, parts: Sequence[BatchMaps]) -> BatchMaps:
        """The maps of consecutive parts of a batch as those of the whole."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            {view: torch.cat([part.maps[view] for part in parts]) for view in parts[0].maps},
            torch.cat([part.targets for part in parts]),
            torch.cat([part.logits for part in parts]),
            torch.cat([part.finite for part in parts]),
            Completeness.joined([part.completeness for part in parts]),
            Estimate.joined([part.estimate for part in parts]),
        )


def view_names(source: Source, names: Sequence[View] | Literal["all"]) -> tuple[View, ...]:
    """The views asked of a source; "all" means all that it has.

    Raises:
        UserError: no view, one twice, or one other than original of a source that gives one
            unsigned map per target.
    """
    single = takes_targets(source)
    if names == "all":
        return ("original",) if single else VIEWS
    if isinstance(names, str):
        raise unknown_choice("view.names", names, [*VIEWS, "all"])
    if not names or len(set(names)) < len(names):
        raise UserError(
            f"Expected `view` to be one or more views, none of them twice, but got {list(names)}."
        )
    if single and any(name != "original" for name in names):
        refused = next(name for name in names if name != "original")
        raise UserError(
            f"Expected `view` to be original for the method {source_name(source)}, which gives "
            f"one map per class and no signed field of every class, but got '{refused}'."
        )
    return tuple(names)


_WIDE = torch.float32


class _WatchedField:
    """A field that remembers what the attributions of its targets sum to, and which images had a
    NaN or infinite attribution for any class.
    """

    def __init__(self, field: ClassField, targets: Tensor | int | None) -> None:
        self._field = field
        self.logits = field.logits
        self.targets = chosen_targets(field.logits, targets)
        self.finite = field.logits.isfinite().all(1)
        self._change = explained_change(field, self.targets)
        self.completeness: Completeness | None = None

    def expect_every_class(self) -> None:
        expect_every_class(self._field)

    def of(self, classes: Tensor) -> Tensor:
        attribution = self._field.of(classes)
        # A sum is finite only if every term is, and costs one reading of the field.
        total = attribution.sum((1, 2, 3), dtype=torch.promote_types(attribution.dtype, _WIDE))
        self.finite &= total.isfinite()
        if self._change is not None and classes is self.targets:
            self.completeness = Completeness(total, self._change)
        return attribution


@without_autocast()
def maps(
    model: nn.Module,
    images: Tensor,
    source: Source = gradient,
    names: Sequence[View] | Literal["all"] = ("original",),
    targets: Tensor | int | None = None,
    *,
    channels: Channels = "max",
    competitors: int | None = None,
    generator: SampleGenerator | None = None,
) -> BatchMaps:
    """Maps of a batch by one source, all its views from one computation of the field.

    Args:
        model: from images (B, C, H, W) to logits (B, K); left unchanged.
        images: floating (B, C, H, W), pixels in [0, 1]; a tensor or a NumPy array; float16 and
            bfloat16 are taken as float32.
        source: a class-field source (model, images, *, generator) or a map source
            (model, images, targets, *, generator), its settings already bound; one that draws no
            numbers may do without `generator`. A map source may return `EstimatedMaps`, a field
            may have an `estimate`.
        names: the views wanted, or "all" that the source has; a map source has original only.
        targets: the explained classes, int64 (B,), or one for all; None: the predicted ones.
        channels, competitors: see `views`.
        generator: one random stream per image, for sources that draw.

    Raises:
        UserError: a view that the source cannot give, targets out of range, images, logits or maps
            of a wrong shape.
    """
    chosen = view_names(source, names)
    images = given_images(images, None)
    # Sums over many copies are of the images' dtype.
    images = images.to(torch.promote_types(images.dtype, _WIDE))
    if takes_targets(source):
        logits = intact_logits(model, images).to(images.device)
        targets = chosen_targets(logits, targets)
        output = source_output(source, model, images, targets, generator=generator)
        estimate = None
        if isinstance(output, EstimatedMaps):
            output, estimate = output
        single = _checked_map(output, source, images)
        finite = single.flatten(1).isfinite().all(1) & logits.isfinite().all(1)
        found: dict[str, Tensor] = dict.fromkeys(chosen, single)
        return BatchMaps(found, targets, logits, finite, None, estimate)
    output = source_output(source, model, images, generator=generator)
    field = _WatchedField(_checked_field(output, source), targets)
    found = views(field, field.targets, chosen, channels=channels, competitors=competitors)
    return BatchMaps(
        found,
        field.targets,
        field.logits,
        field.finite,
        field.completeness,
        getattr(output, "estimate", None),
    )


def _checked_map(output: object, source: Source, images: Tensor) -> Tensor:
    wanted = (len(images), *images.shape[2:])
    if isinstance(output, Tensor) and output.shape == wanted:
        return output.detach()
    got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise UserError(
        f"Expected the method {source_name(source)} to give one map per image, a tensor of "
        f"{wanted}, but got {got}."
    )


def _checked_field(output: Any, source: Source) -> ClassField:
    if hasattr(output, "logits") and hasattr(output, "of"):
        return output
    raise UserError(
        f"Expected the method {source_name(source)} to take `targets` and give maps (B, H, W), or "
        f"to give a field of every class (`logits` and `of`), but got {type(output).__name__} of a "
        "function without `targets`."
    )


def chosen_targets(logits: Tensor, targets: Tensor | int | None) -> Tensor:
    """The classes to explain, int64 (B,) beside the logits (B, K): those asked for, one for each
    image or one for all, or the predicted ones.

    Raises:
        UserError: targets of a wrong shape or dtype, or outside [0, K).
    """
    batch, classes = logits.shape
    chosen = given_targets(targets, batch)
    if chosen is None:
        return logits.argmax(1)
    chosen = chosen.to(logits.device)
    require_classes(chosen, classes, "targets")
    return chosen


def require_finite(finite: Tensor, sample_ids: Sequence[object]) -> None:
    """Nothing if every image is finite; otherwise a NonFiniteError that names the others."""
    if not bool(finite.all()):
        kept = finite.tolist()
        raise NonFiniteError([s for s, ok in zip(sample_ids, kept, strict=True) if not ok])
