"""Charts and tables in wandb's own form, made from what a run directory holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import wandb
from numpy.typing import NDArray
from PIL import Image

from saliency_lab.evaluation.rows.format import EXAMPLES, read_scores
from saliency_lab.report.drawing.axes import Axis, places
from saliency_lab.report.drawing.palette import MAP_COLOURS

_COLUMNS = ["sample_id", "image", "label", "prediction", "right", "method", "view", "map"]
_CELL_PIXELS = 128


def line_charts(curves: pd.DataFrame, prefix: str = "", over: Axis = "fraction") -> dict[str, Any]:
    """A chart of every map's allegiance for each mode and fill.

    Args:
        curves: columns label, mode, fill, fraction, allegiance; a line for each label.
        prefix: goes before the mode in the charts' names, such as the evaluator's label.
        over: the horizontal axis; the deleted share takes a column `deleted`.
    """
    charts = {}
    for (mode, fill), group in curves.groupby(["mode", "fill"], sort=False, observed=True):
        lines = list(group.groupby("label", sort=False, observed=True))
        charts[f"charts/{prefix}{mode}/{fill}"] = wandb.plot.line_series(
            xs=[places(line, over).tolist() for _, line in lines],
            ys=[line["allegiance"].tolist() for _, line in lines],
            keys=[str(label) for label, _ in lines],
            title=f"Allegiance, {mode}, {fill}",
            xname=over.replace("_", " "),
        )
    return charts


def confusion_chart(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Any:
    """wandb's confusion matrix from counts[i][j]: images of class i that were taken for j."""
    columns: list[str | int] = ["Actual", "Predicted", "nPredictions"]
    cells = [
        [classes[actual], classes[predicted], count]
        for actual, row in enumerate(counts)
        for predicted, count in enumerate(row)
    ]
    return wandb.plot_table(
        vega_spec_name="wandb/confusion_matrix/v1",
        data_table=wandb.Table(columns=columns, data=cells),
        fields={str(name): str(name) for name in columns},
        string_fields={"title": "Test images"},
    )


def example_table(
    directory: Path, summary: Mapping[str, Any], classes: Sequence[str], limit: int
) -> wandb.Table:
    """A row for each example image and map, with the image's own main score of every evaluator.

    Every run has the same columns, so that W&B stacks the tables of a sweep into one, in which
    an image's rows are next to each other when sorted by `sample_id`.
    """
    score_of, columns = _own_scores(directory, summary)
    table = wandb.Table(columns=[*_COLUMNS, *columns])
    with np.load(directory / EXAMPLES) as stored:
        wanted = [name for name in stored.files if "|" not in name]
        arrays: Mapping[str, NDArray[Any]] = {name: stored[name][:limit] for name in wanted}
    maps = [name for name in arrays if name.startswith("map:")]
    for place, sample in enumerate(arrays["ids"].tolist()):
        image = wandb.Image(_picture(arrays["images"][place]))
        label, prediction = (int(arrays[name][place]) for name in ("labels", "predictions"))
        for name in maps:
            method, _, view = name.removeprefix("map:").partition("/")
            drawn = wandb.Image(_coloured(arrays[name][place]))
            table.add_data(
                sample, image, classes[label], classes[prediction], label == prediction,
                method, view, drawn,
                *(score_of.get((sample, method, view, name)) for name in columns),
            )  # fmt: skip
    return table


def _own_scores(
    directory: Path, summary: Mapping[str, Any]
) -> tuple[dict[tuple[str, str, str, str], float], list[str]]:
    """Main scores by (sample, method, view, column), and the columns: one per condition."""
    found: dict[tuple[str, str, str, str], float] = {}
    columns: dict[str, None] = {}
    for label, evaluator in summary["evaluators"].items():
        scores, main = read_scores(directory, label), evaluator["scores"][0]["name"]
        names = ["sample_id", "method", "view", *evaluator["conditions"]]
        for key, value in zip(
            scores[names].astype(str).itertuples(index=False, name=None),
            scores[main].tolist(),
            strict=True,
        ):
            column = " ".join((label, *key[3:]))
            columns[column] = None
            found[(key[0], key[1], key[2], column)] = value
    return found, list(columns)


def _picture(image: NDArray[np.uint8]) -> Image.Image:
    pixels = image.transpose(1, 2, 0)
    return _small(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))


def _small(image: Image.Image) -> Image.Image:
    """The mean of whole blocks of pixels, as many as a cell shows; `examples.npz` has them all."""
    return image.reduce(-(-max(image.size) // _CELL_PIXELS))


def _coloured(values: NDArray[np.float16]) -> Image.Image:
    """A map (H, W) in [0, 1] as an image with a palette, a third of the size of a coloured one."""
    levels = np.rint(np.nan_to_num(values.astype(np.float32)).clip(0, 1) * 255).astype(np.uint8)
    image = _small(Image.fromarray(levels))
    colours = (mpl.colormaps[MAP_COLOURS](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    image.putpalette(colours.tobytes())
    return image
