"""What an evaluator is: what it needs, what its rows hold, and which way its scores are better."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from saliency_lab.data.batch import Batch
from saliency_lab.evaluation.context import Context, Found, Need
from saliency_lab.evaluation.perturbation import NonFiniteAlteredError
from saliency_lab.evaluation.rows.format import IMAGE_COLUMNS

Better = Literal["higher", "lower"] | None
Role = Literal["measure", "gate", "robustness", "truth", "panel"]


@dataclass(frozen=True)
class Score:
    """A number per image and map.

    Attributes:
        name: of the column.
        better: which way is better; None for a score that only describes a map.
        low, high: the range that the score cannot leave; None where it is unbounded.
    """

    name: str
    better: Better = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Measured:
    """What `measure` says about one view of a batch's maps.

    Attributes:
        view: of the run's method.
        keys: a value for each of the evaluator's keys. At most one of them is a sequence of F
            values, or an array (B, F) of other ones for each image; then `values` are (B, F), one
            row per image and value.
        values: column to numbers, (B,) or (B, F): tensors on any device, or arrays.
    """

    view: str
    keys: Mapping[str, object] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


class Evaluator(ABC):
    """Measures maps, batch by batch; one file and one yaml make a new one.

    A subclass sets `scores` and gives `measure`; its constructor's keyword arguments are its
    settings, named in its yaml. Instances hold settings only: everything else is in the context.

    Attributes:
        scores: of an image and map, the main one first: it is the one that maps are compared by.
        keys: what tells several rows of one image and map apart, such as a fill.
        conditions: those keys under which an image has a score of its own; all of them, unless
            `image_scores` sums over some.
        columns: what a row holds; the scores, unless `image_scores` computes them from others. An
            instance may have more of them than its class.
        selects: settings that choose conditions and decide no number, such as a list of fills.
        needs: what the context must be able to give.
        role: in the verdict on a map. A `gate` gives `facts["gate"]`, a list of method, view and
            verdict (passed, failed, undecided), maybe with its tests; `robustness` is shown beside
            the gates; the first score of a `truth` is taken against evidence that is known; a
            `panel` has the score `value` under the conditions `measure` and `version`; a `measure`
            is anything else.
        tested: whether images are all that is left to chance, so that a difference of two maps has
            a p. Not where each map has networks of its own: how they were trained varies, too.
        sections: module with this evaluator's part of the page, by its dotted path; without one
            the page shows a table of the scores with their intervals.
    """

    scores: ClassVar[tuple[Score, ...]]
    keys: ClassVar[tuple[str, ...]] = ()
    conditions: ClassVar[tuple[str, ...] | None] = None
    columns: tuple[str, ...] = ()
    selects: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[frozenset[Need]] = frozenset()
    role: ClassVar[Role] = "measure"
    tested: ClassVar[bool] = True
    sections: ClassVar[str | None] = None

    @property
    def estimates(self) -> str | None:
        """The setting by which an image's score is an estimate; None where it is exact."""
        return None

    @abstractmethod
    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        """The rows of a batch; images with maps that are not finite are dropped by the caller."""

    def check(self, context: Context, name: str) -> None:
        """Refuse, before the first batch, what this evaluator cannot measure.

        Raises:
            UserError: the run cannot give what `needs` lists; `name` is the evaluator's.
        """
        context.require(self.needs, name)

    def image_scores(self, rows: pd.DataFrame) -> pd.DataFrame:
        """One row per image, method, view and condition, with every score as a column.

        `rows` are this evaluator's of a whole run, in the images' order within each map and key.
        """
        return rows

    def better(self, score: str, condition: Mapping[str, object]) -> Better:
        """Which way a score is better under a condition."""
        return next(known.better for known in self.scores if known.name == score)

    def facts(self, rows: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
        """What the summary says beside means and comparisons: plain containers.

        `warnings`, a list of sentences, is printed and shown above the evaluator's results.
        """
        return {}

    def tables(self, rows: pd.DataFrame, resamples: int) -> dict[str, pd.DataFrame]:
        """Tables that are written beside the rows as `NAME.csv`, such as mean curves."""
        return {}

    def example_arrays(
        self, context: Context, batch: Batch, maps: Found, chosen: Sequence[int]
    ) -> dict[str, NDArray[Any]]:
        """What is kept of example images beside their maps, one entry per chosen image."""
        return {}


def measured_rows(
    evaluator: Evaluator, batch: Batch, method: str, measured: Iterable[Measured]
) -> pd.DataFrame:
    """What an evaluator said of a batch as rows: sample_id, index, label, method, view, its keys,
    its columns.

    Raises:
        TypeError: an evaluator's answer does not fit what it declares.
        NonFiniteAlteredError: the model gives altered images no finite logits; it names samples.
    """
    columns = evaluator.columns or tuple(score.name for score in evaluator.scores)
    frames = []
    for part in _of_samples(measured, batch):
        if set(part.keys) != set(evaluator.keys) or set(part.values) != set(columns):
            raise TypeError(
                f"{type(evaluator).__name__} declares keys {evaluator.keys} and columns {columns}, "
                f"but measured {tuple(part.keys)} and {tuple(part.values)}"
            )
        axes = [key for key, value in part.keys.items() if _is_axis(value)]
        steps = np.asarray(part.keys[axes[0]]).shape[-1] if axes else 1
        images = len(batch.ids)
        frame: dict[str, Any] = {
            "sample_id": np.repeat(np.array(batch.ids, dtype=object), steps),
            "index": np.repeat(batch.index.cpu().numpy(), steps),
            "label": np.repeat(batch.label.cpu().numpy(), steps),
            "method": method,
            "view": part.view,
        }
        for key in evaluator.keys:
            value: Any = part.keys[key]
            if key in axes:
                value = np.broadcast_to(np.asarray(value), (images, steps)).ravel()
            frame[key] = value
        for name in columns:
            frame[name] = _flat(part.values[name], images * steps, name)
        frames.append(pd.DataFrame(frame))
    if not frames:
        names = (*IMAGE_COLUMNS, *evaluator.keys, *columns)
        return pd.DataFrame(columns=list(names))
    rows = pd.concat(frames, ignore_index=True)
    named = ["method", "view", *(key for key in evaluator.keys if rows[key].dtype == object)]
    named += [key for key in evaluator.keys if isinstance(rows[key].dtype, pd.StringDtype)]
    return rows.astype(dict.fromkeys(dict.fromkeys(named), "category"))


def _of_samples(measured: Iterable[Measured], batch: Batch) -> Iterator[Measured]:
    """What is measured as it is; an error that tells images by their places tells samples."""
    try:
        yield from measured
    except NonFiniteAlteredError as error:
        raise error.named(batch.ids) from error


def _is_axis(value: object) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)


def _flat(values: ArrayLike, count: int, name: str) -> NDArray[Any]:
    detach = getattr(values, "detach", None)
    array = np.asarray(values if detach is None else detach().cpu().numpy()).ravel()
    if len(array) != count:
        raise TypeError(f"Expected `{name}` to hold {count} numbers, but got {len(array)}")
    return array
