"""Any evaluator on images of one's own, as a DataFrame: the face for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from saliency_lab.attribution.core.sources import source_name
from saliency_lab.attribution.core.views import View
from saliency_lab.attribution.maps import require_finite
from saliency_lab.config.binding import built
from saliency_lab.config.location import config_directory
from saliency_lab.data.batch import Batch
from saliency_lab.data.module import ImageData, SplitName
from saliency_lab.data.source import Source
from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.evaluation.base import Evaluator, measured_rows
from saliency_lab.evaluation.context import Context, Found, Method, found_maps
from saliency_lab.explanation import Method as ExplainMethod
from saliency_lab.explanation import listed_methods, named_method, source_function
from saliency_lab.inference.engine import PreparedModel, prepared
from saliency_lab.inputs import given_images, given_model, given_seed, require_positive


def measure(
    model: nn.Module | PreparedModel,
    images: Tensor,
    methods: Sequence[ExplainMethod] | ExplainMethod = ("original", "active"),
    evaluator: str | Evaluator = "deletion",
    *,
    labels: Sequence[int] | None = None,
    masks: NDArray[np.bool] | None = None,
    class_names: Sequence[str] | None = None,
    sample_ids: Sequence[str] | None = None,
    batch_size: int = 100,
    seed: int = 42,
    scores: bool = False,
    **settings: Any,
) -> pd.DataFrame:
    """What an evaluator says of the maps of these images: the rows that `evaluate` writes.

    Args:
        model: from images (B, C, H, W) to logits (B, K); left unchanged. It is made ready on the
            first batch unless it is what `sl.prepared` gave.
        images: floating (B, C, H, W), pixels in [0, 1]; a tensor or a NumPy array.
        methods: as in `sl.explain`: names, SOURCE/VIEW, or functions that are sources themselves,
            each listed under its own name.
        evaluator: a name of conf/evaluator with its `settings`, or an evaluator itself.
        labels: classes (B,), whole numbers, for columns of the rows; −1 where there is none. None:
            all −1.
        masks: ground-truth evidence, bool (B, H, W), for evaluators that need it; also numbers,
            where all that are not 0 are one positive number.
        class_names: K names; None: numbers.
        sample_ids: what random numbers depend on; 0 … B − 1 unless given.
        batch_size: images that are measured together.
        seed: of all random numbers.
        scores: one row per image and map with its scores (such as areas), instead of all rows.
        settings: of the evaluator, as its yaml has them.

    Returns:
        Columns sample_id, index, label, method, view, the evaluator's keys, its columns or scores.

    Raises:
        UserError: an unknown method, evaluator or setting, images, labels or names that do not
            fit, or something that the evaluator needs and that is not given.
    """
    require_positive(batch_size, "batch_size")
    seed = given_seed(seed)
    pixels = given_images(images)
    ready = model
    if not isinstance(ready, PreparedModel):
        ready = prepared(given_model(ready), pixels[:batch_size])
    chosen = named_evaluator(evaluator, settings)
    count = ready.logits(pixels[:1]).shape[1]
    names = [str(index) for index in range(count)] if class_names is None else list(class_names)
    if len(names) != count:
        raise UserError(
            f"Expected `class_names` to be one for each of {count} logits, but got {len(names)}."
        )
    ids = [str(index) for index in range(len(pixels))] if sample_ids is None else list(sample_ids)
    known = np.full(len(pixels), -1) if labels is None else _given_labels(labels, count)
    data = GivenImages(pixels, known, ids, names, masks)
    frames = []
    for method in _methods(methods):
        context = Context(ready, method, data, "test", seed)
        chosen.check(context, type(chosen).__name__)
        for start in range(0, len(pixels), batch_size):
            batch = data.batch(slice(start, start + batch_size))
            measured = chosen.measure(context, batch, _found(context, batch))
            frames.append(measured_rows(chosen, batch, method.name, measured))
    rows = pd.concat(frames, ignore_index=True)
    return chosen.image_scores(rows) if scores else rows


def named_evaluator(evaluator: str | Evaluator, settings: dict[str, Any]) -> Evaluator:
    """The evaluator that a name and settings mean, or the one given.

    Raises:
        UserError: there is no such evaluator, or a setting is unknown or impossible.
    """
    if isinstance(evaluator, Evaluator):
        if settings:
            raise UserError(f"Expected no settings beside an evaluator, but got {list(settings)}.")
        return evaluator
    folder = config_directory() / "evaluator"
    names = sorted(file.stem for file in folder.glob("*.yaml"))
    if evaluator not in names:
        raise unknown_choice("evaluator", evaluator, names)
    component = yaml.safe_load((folder / f"{evaluator}.yaml").read_text(encoding="utf-8"))
    found = built({**component, **settings}, f"evaluator.{evaluator}")
    if not isinstance(found, Evaluator):
        raise TypeError(f"{evaluator}.yaml names no evaluator, but {type(found).__name__}")
    return found


def _methods(methods: Sequence[ExplainMethod] | ExplainMethod) -> list[Method]:
    """The sources with all views that are asked of them, whose field is computed once for all.

    Raises:
        UserError: no method, an unknown one, or what is neither a name nor a function.
    """
    listed = listed_methods(methods)
    if not listed:
        raise UserError("Expected `methods` to be one or more methods, but got none.")
    asked: dict[str, list[View]] = {}
    for method in listed:
        if not isinstance(method, str):
            continue
        name, slash, view = method.partition("/")
        source, views = named_method(name)
        wanted: Any = (view,) if slash else views
        asked.setdefault(source, []).extend(
            one for one in wanted if one not in asked.get(source, [])
        )
    found = {name: Method(name, source_function(name), tuple(asked[name])) for name in asked}
    for function in dict.fromkeys(one for one in listed if not isinstance(one, str)):
        if not callable(function):
            raise UserError(
                f"Expected `methods` to be names or functions, but got {type(function).__name__}."
            )
        name, number = source_name(function), 1
        while name in found:
            number += 1
            name = f"{source_name(function)}-{number}"
        found[name] = Method(name, function, ("original",))
    return list(found.values())


def _given_labels(labels: object, classes: int) -> NDArray[np.int64]:
    """The labels as int64 (B,), each a class or −1 for none.

    Raises:
        UserError: they are not whole numbers, not one per image, or no class.
    """
    try:
        found = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    except ValueError:
        found = np.empty(0, dtype=object)
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise UserError(
            "Expected `labels` to be whole numbers, one class per image, but got "
            f"{found.shape} of {found.dtype}."
        )
    if len(found) and not -1 <= found.min() <= found.max() < classes:
        raise UserError(
            f"Expected `labels` to be in [0, {classes}), or -1 for none, but got {found.min()} to "
            f"{found.max()}."
        )
    return found.astype(np.int64)


def _found(context: Context, batch: Batch) -> Found:
    maps = context.maps_of(batch.image, batch.ids)
    require_finite(maps.finite, batch.ids)
    return found_maps(maps)


def _given_masks(masks: object, images: Tensor) -> NDArray[np.bool]:
    """The masks as bool (B, H, W), one for each image and of its size.

    Raises:
        UserError: another shape, or values that leave open what is evidence, as those of a soft
            mask or of several classes do.
    """
    count, _, height, width = images.shape
    try:
        found = np.asarray(masks.cpu() if isinstance(masks, Tensor) else masks)
    except ValueError as error:
        raise UserError(
            f"Expected `masks` to be an array (B, H, W), but got {type(masks).__name__} of unequal "
            "parts."
        ) from error
    if found.shape != (count, height, width):
        raise UserError(
            f"Expected `masks` to be one for each image, of shape {(count, height, width)}, but "
            f"got {found.shape}."
        )
    if found.dtype == np.bool:
        return found
    if not (np.issubdtype(found.dtype, np.integer) or np.issubdtype(found.dtype, np.floating)):
        raise UserError(f"Expected `masks` to be bool or numbers, but got {found.dtype}.")
    evidence = found != 0
    others = np.unique(found[evidence])
    if len(others) > 1 or not (others > 0).all() or not np.isfinite(others).all():
        listed = ", ".join(f"{other:g}" for other in others[:4]) + (
            ", …" if len(others) > 4 else ""
        )
        raise UserError(
            f"Expected `masks` to hold 0 and one positive number, but got {listed}; say what is "
            "evidence: masks > 0.5, for example."
        )
    return evidence


class GivenImages(ImageData):
    """Images in memory as the data of an evaluation: one split, nothing decoded or cached."""

    def __init__(
        self,
        images: Tensor,
        labels: NDArray[np.int64],
        ids: Sequence[str],
        class_names: Sequence[str],
        masks: NDArray[np.bool] | None,
    ) -> None:
        if len(labels) != len(images) or len(ids) != len(images):
            raise UserError(
                f"Expected a label and an id for each of {len(images)} images, but got "
                f"{len(labels)} and {len(ids)}."
            )
        known = None if masks is None else _given_masks(masks, images)
        super().__init__(name="given images")
        self._images, self._labels, self._ids = images, labels, list(ids)
        self._names, self._masks = tuple(class_names), known

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._names

    @property
    def input_shape(self) -> tuple[int, int, int]:
        channels, height, width = self._images.shape[1:]
        return channels, height, width

    def source(self, split: Literal["train", "test"]) -> Source:
        raise UserError("Expected images of a data set, but only those in memory are there.")

    def ids(self, split: SplitName) -> list[str]:
        return list(self._ids)

    def labels(self, split: SplitName) -> NDArray[np.int64]:
        return self._labels.copy()

    def images(
        self, split: SplitName, indices: Sequence[int] | NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        chosen = self._images[torch.as_tensor(np.asarray(indices))]
        return (chosen * 255).round().to(torch.uint8).cpu().numpy()

    def has_masks(self, split: SplitName) -> bool:
        return self._masks is not None

    def masks(
        self, split: SplitName, indices: Sequence[int] | NDArray[np.int64]
    ) -> NDArray[np.bool]:
        if self._masks is None:
            raise UserError("Expected `masks` to be given, but got none.")
        return self._masks[np.asarray(indices)]

    def batch(self, rows: slice) -> Batch:
        """These images as a batch, as the loop of `evaluate` gets them."""
        index = torch.arange(len(self._ids))[rows]
        return Batch(
            self._images[rows], torch.from_numpy(self._labels[rows]), index, self._ids[rows]
        )
