"""Deletion and insertion curves: how long the prediction survives as pixels are replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor

from saliency_lab.data.batch import Batch
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Better, Evaluator, Measured, Score
from saliency_lab.evaluation.context import Context, Found
from saliency_lab.evaluation.deletion.curves import masked_scores
from saliency_lab.evaluation.deletion.draws import checked_draws, drawn_fractions
from saliency_lab.evaluation.deletion.masking import MaskingJob, Mode
from saliency_lab.evaluation.deletion.removal import Protocol, checked_fractions, deletion_levels
from saliency_lab.evaluation.rows.intervals import bootstrap_interval
from saliency_lab.imputation.fills import checked_fill, replacement
from saliency_lab.imputation.linear import Imputation

# The pairs that the reference reports: maps of what speaks for the class lose it to black, maps
# of what speaks against darkening to white.
FILLS_BY_VIEW: dict[str, tuple[str, ...]] = {
    "original": ("black", "white"),
    "positive": ("black",),
    "active": ("black",),
    "negative": ("white",),
    "inactive": ("white",),
}
CURVE = ["method", "view", "mode", "fill"]
# Maps of which less than this share can be deleted are warned of.
_SPARSE = 0.1
_IMAGE = ["sample_id", "index", "label"]
_END = "deleted_at_end"
_COLUMN = {"allegiance": "agrees", "probability": "probability", "logit": "logit"}


class Deletion(Evaluator):
    """Area under the share of images whose prediction survives, and under score and logit.

    Args:
        protocol, fractions: see `removal.deletion_levels`.
        modes: `deletion`, `insertion` or both.
        fills: `by_view` gives black for original, positive and active, and white for original,
            negative and inactive; or a list of fills for every view.
        draws: how many of an image's fractions are asked for, drawn for each image and the same
            for all of its maps (`draws.drawn_fractions`). Its area then is the mean of the curve
            at those times their range: right in expectation, and within the area's range. A mean
            curve is over the images that were asked for a fraction. None: all fractions.

    Raises:
        UserError: an unknown fill, unusable fractions, or more draws than can be made of them.

    Source: Llorente, Boal, Sánchez-Úbeda, "A matter of attitude", evaluation protocol, whose word
    for prediction agreement is allegiance; Petsiuk, Das, Saenko, "RISE", 2018, section 4.3.
    """

    keys = ("mode", "fill", "fraction")
    conditions = ("mode", "fill")
    selects = ("modes", "fills")
    columns: tuple[str, ...] = ("deleted", "prediction", "agrees", "probability", "logit")
    scores = (
        Score("allegiance", "lower", 0.0, 1.0),
        Score("probability", "lower", 0.0, 1.0),
        Score("logit", "lower"),
        # How much the map lets the protocol delete: sparse maps stop early.
        Score("deleted", None, 0.0, 1.0),
    )
    sections = "saliency_lab.evaluation.deletion.sections"

    def __init__(
        self,
        *,
        protocol: Protocol = "threshold",
        modes: Sequence[Mode] = ("deletion",),
        fills: Literal["by_view"] | Sequence[str] = "by_view",
        fractions: Sequence[Annotated[float, Ge(0)]] | None = None,
        draws: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        self.protocol, self.modes = protocol, tuple(modes)
        self.fills: Literal["by_view"] | tuple[str, ...] = "by_view"
        if not isinstance(fills, str):
            self.fills = tuple(checked_fill(fill) for fill in fills)
        if not self.fills or not self.modes:
            raise UserError(
                "Expected `evaluator.deletion.fills` and `evaluator.deletion.modes` not to be empty"
            )
        self.fractions = checked_fractions(fractions, protocol)
        self.draws = checked_draws(draws, self.fractions)
        if self.draws is not None:
            self.columns = (*self.columns, _END)

    def fills_of(self, view: str) -> tuple[str, ...]:
        """What deleted pixels of a view's map are replaced by."""
        return FILLS_BY_VIEW[view] if self.fills == "by_view" else self.fills

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterator[Measured]:
        jobs: dict[tuple[str, str, str], MaskingJob] = {}
        fills: dict[str, Tensor | Imputation] = {}
        for view, values in maps.maps.items():
            levels = self._levels(values)
            for mode in self.modes:
                for fill in self.fills_of(view):
                    if fill not in fills:
                        generator = context.generator(batch.ids, "fill")
                        fills[fill] = replacement(batch.image, fill, generator)
                    jobs[view, mode, fill] = MaskingJob(levels, fills[fill], mode, fill)
        steps = None
        if self.draws is not None:
            starts = context.generator(batch.ids, "fractions").uniform()
            steps = drawn_fractions(self.fractions, self.draws, starts)
        found = masked_scores(
            context.model.scores,
            batch.image,
            list(jobs.values()),
            len(self.fractions),
            batch_size=context.model.scores_batch,
            intact=maps.logits,
            steps=steps,
        )
        intact = maps.logits.argmax(1)[:, None]
        fractions: Any = self.fractions
        if steps is not None:
            fractions = np.asarray(self.fractions)[steps.numpy()]
        for (view, name, fill), scores in zip(jobs, found, strict=True):
            measured = {
                "deleted": scores.deleted,
                "prediction": scores.prediction,
                "agrees": scores.prediction == intact,
                "probability": scores.probability,
                "logit": scores.logit,
            }
            if steps is not None:
                end = self._end(jobs[view, name, fill])
                measured[_END] = end[:, None].expand_as(scores.deleted)
            yield Measured(view, {"mode": name, "fill": fill, "fraction": fractions}, measured)

    def better(self, score: str, condition: Mapping[str, object]) -> Better:
        if score == "deleted":
            return None
        return "higher" if condition.get("mode") == "insertion" else "lower"

    def image_scores(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The trapezoid area under each image's own curves, and the share deleted at their end."""
        frames = []
        for names, curve in rows.groupby(CURVE, observed=True, sort=False):
            frame = self._drawn_areas(curve) if self.draws else _areas(curve)
            for place, (name, value) in enumerate(zip(CURVE, names, strict=True), len(_IMAGE)):
                frame.insert(place, name, value)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    @property
    def estimates(self) -> str | None:
        return None if self.draws is None else "evaluator.deletion.draws"

    def facts(self, rows: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
        known: dict[str, Any] = {"protocol": self.protocol, "fractions": list(self.fractions)}
        if self.draws is not None:
            known["draws"] = self.draws
        sparse = self._sparse(scores)
        return {**known, "warnings": sparse} if sparse else known

    def _sparse(self, scores: pd.DataFrame) -> list[str]:
        """Views of maps that are 0 nearly everywhere, whose curves end where they begin."""
        if self.protocol != "threshold" or self.fractions[-1] < 0.5:
            return []
        # What an insertion leaves deleted is what it has not shown.
        scores = scores[scores["mode"] == "deletion"]
        shares = scores.groupby(["method", "view"], observed=True, sort=False)["deleted"].mean()
        return [
            f"{method}/{view}: only {share:.1%} of the pixels are not 0, on average, and the "
            "threshold protocol deletes no others, so that its area cannot be compared with that "
            "of a denser map; evaluator.deletion.protocol=standard deletes every pixel in the end"
            for (method, view), share in shares.items()
            if share < _SPARSE
        ]

    def tables(self, rows: pd.DataFrame, resamples: int) -> dict[str, pd.DataFrame]:
        return {"curves": (drawn_curves if self.draws else mean_curves)(rows, resamples)}

    def example_arrays(
        self, context: Context, batch: Batch, maps: Found, chosen: Sequence[int]
    ) -> dict[str, NDArray[Any]]:
        """The index of the fraction at which each pixel goes, by view."""
        return {
            f"levels:{view}": self._levels(values[list(chosen)]).cpu().numpy()
            for view, values in maps.maps.items()
        }

    def _drawn_areas(self, curve: pd.DataFrame) -> pd.DataFrame:
        """Each image's areas from the fractions that were drawn, and the share at the end."""
        draws = self.draws or len(self.fractions)
        frame = curve.iloc[::draws][_IMAGE].reset_index(drop=True)
        for score, column in _COLUMN.items():
            frame[score] = _matrix(curve, column, draws).mean(1) * np.ptp(self.fractions)
        frame["deleted"] = _matrix(curve, _END, draws)[:, -1]
        return frame

    def _end(self, job: MaskingJob) -> Tensor:
        """The share of the pixels that is replaced at the last fraction, (B,) float32."""
        reached = (job.levels < len(self.fractions)).flatten(1).float().mean(1)
        return 1 - reached if job.mode == "insertion" else reached

    def _levels(self, values: Tensor) -> Tensor:
        return deletion_levels(values, self.fractions, self.protocol)


def mean_curves(rows: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """The mean curve of each method, view, mode and fill, with the interval of its allegiance."""
    frames = []
    for names, curve in rows.groupby(CURVE, observed=True, sort=False):
        _, fractions = _grid(curve)
        found = bootstrap_interval(_matrix(curve, "agrees", len(fractions)), resamples=resamples)
        frame = pd.DataFrame(
            {
                **dict(zip(CURVE, names, strict=True)),
                "fraction": fractions,
                "allegiance": found.value,
                "low": found.low,
                "high": found.high,
            }
        )
        for column in ("probability", "logit", "deleted"):
            frame[column] = _matrix(curve, column, len(fractions)).mean(0)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def drawn_curves(rows: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """The same where images were asked for a few fractions: each mean is over those asked."""
    points = []
    for names, curve in rows.groupby(CURVE, observed=True, sort=False):
        for fraction, part in curve.groupby("fraction"):
            found = bootstrap_interval(part["agrees"].to_numpy(np.float64), resamples=resamples)
            points.append(
                {
                    **dict(zip(CURVE, names, strict=True)),
                    "fraction": fraction,
                    "allegiance": found.value,
                    "low": found.low,
                    "high": found.high,
                    **part[["probability", "logit", "deleted"]].mean(),
                }
            )
    return pd.DataFrame(points)


def _areas(curve: pd.DataFrame) -> pd.DataFrame:
    """The areas under each image's curve of all fractions, and the share deleted at its end."""
    frame, fractions = _grid(curve)
    for score, column in _COLUMN.items():
        frame[score] = np.trapezoid(_matrix(curve, column, len(fractions)), fractions)
    frame["deleted"] = _matrix(curve, "deleted", len(fractions))[:, -1]
    return frame


def _grid(curve: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """The images and fractions of a curve, whose rows lie image by image, fraction by fraction."""
    fractions = curve["fraction"].unique()
    ids = curve.loc[curve["fraction"] == fractions[0], _IMAGE]
    return ids.reset_index(drop=True), fractions.astype(np.float64)


def _matrix(curve: pd.DataFrame, column: str, fractions: int) -> NDArray[np.float64]:
    return curve[column].to_numpy(dtype=np.float64).reshape(-1, fractions)
