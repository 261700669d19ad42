"""Example images for the page: levels instead of pictures, so that one map serves every fraction.

A level map says at which fraction a pixel is deleted. From it and the image the page draws what
deletion leaves at any fraction, and (with the mean of the map per level) the map itself.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter

from saliency_lab.evaluation.rows.format import read_rows
from saliency_lab.imputation.names import BLUR_SHARE
from saliency_lab.report.comparing.maps import Panel
from saliency_lab.report.drawing.figures import condition_name
from saliency_lab.report.reading.records import EvaluationRun, example_maps

SIDES = (256, 224, 192, 160, 144, 128, 112, 96, 88, 80, 72, 64, 56, 48, 32)
"""Sides in pixels that level maps may be sampled at, the finest that fits is taken."""

_NOT_MEASURED = 65535
_LARGEST_IMAGE = 256
_ALWAYS_SHOWN = 6  # of the examples that methods disagree about most


@dataclass(frozen=True)
class Examples:
    """The chosen examples of a panel, at full size: what the page and the figure are made from.

    `images` (N, H, W, C) uint8; `maps` and `levels` by curve key, (N, H, W); `traces` one row per
    image, curve, condition and fraction.
    """

    panel: Panel
    ids: list[str]
    labels: np.ndarray
    predictions: np.ndarray
    images: np.ndarray
    maps: dict[str, np.ndarray]
    levels: dict[str, np.ndarray]
    traces: pd.DataFrame

    @property
    def row_labels(self) -> list[str]:
        """ "cat" for a right answer, "cat, taken for dog" for a wrong one."""
        return [
            self.class_name(label)
            if label == prediction
            else f"{self.class_name(label)}\n→ {self.class_name(prediction)}"
            for label, prediction in zip(self.labels, self.predictions, strict=True)
        ]

    def class_name(self, index: int) -> str:
        names = self.panel.summary.data.classes
        return names[index] if 0 <= index < len(names) else str(index)


def chosen_examples(panel: Panel, count: int) -> Examples | None:
    """At most `count` of the images that every run of the panel kept, else None.

    The images that methods disagree about most are always among them; the others are spread
    evenly over what was kept. They come class by class in turn: folders are sorted by class.
    Read once for a panel and count; not to be written to.
    """
    place = f"{count} examples"
    if place not in panel.kept:
        panel.kept[place] = _chosen(panel, count)
    found: Examples | None = panel.kept[place]
    return found


def example_data(panel: Panel, count: int, side: int) -> dict[str, Any] | None:
    """What the page's script needs of a panel's examples, as JSON has it; None without any.

    Args:
        panel: of an evaluator that deletes pixels.
        count: how many examples at most, see `chosen_examples`.
        side: of level maps, in pixels; smaller ones keep their size.
    """
    examples = chosen_examples(panel, count)
    if examples is None:
        return None
    height, width = next(iter(examples.levels.values())).shape[1:]
    return {
        "fractions": list(panel.found.facts["fractions"]),
        "classes": panel.summary.data.classes,
        "curves": [curve.key for curve in panel.maps if curve.key in examples.levels],
        "conditions": [
            {"mode": mode, "fill": fill, "name": condition_name(mode, fill)}
            for mode, fill in panel.conditions
        ],
        "height": min(side, height),
        "width": min(side, width),
        "pixels": max(height, width),
        "items": packed_examples(examples, side),
    }


def levels_bytes(panel: Panel, count: int, side: int) -> int:
    """About how many bytes of the page the level maps of a panel's examples take."""
    examples = chosen_examples(panel, count)
    return 0 if examples is None else _levels_size(examples, side)


def _chosen(panel: Panel, count: int) -> Examples | None:
    if "fractions" not in panel.found.facts or panel.found.conditions != ["mode", "fill"]:
        return None  # nothing is deleted that could be drawn
    shown = {part[0].name for part in panel.parts}
    runs = [run for run in panel.runs if run.example_ids and run.name in shown]
    if not runs:
        return None
    common = set.intersection(*(set(run.example_ids) for run in runs))
    kept = [name for name in runs[0].example_ids if name in common]
    ids = _mixed(_spread(kept, _disputed(panel, kept), count), panel)
    if not ids:
        return None
    maps: dict[str, np.ndarray] = {}
    levels: dict[str, np.ndarray] = {}
    base: dict[str, np.ndarray] = {}
    traces = []
    for run in runs:
        keys = {(part[1], part[2]): part[3] for part in panel.parts if part[0] is run}
        place = {name: row for row, name in enumerate(run.example_ids)}
        order = [place[name] for name in ids]
        base, arrays = example_maps(run, [view for _, view in keys])
        for (_, view), key in keys.items():
            if "levels" in arrays.get(view, {}):
                maps[key], levels[key] = arrays[view]["map"][order], arrays[view]["levels"][order]
        rows = _rows_of(run, ids)
        for (method, view), key in keys.items():
            hit = (rows["method"] == method) & (rows["view"] == view)
            traces.append(rows[hit].assign(key=key))
        base = {name: values[order] for name, values in base.items()}
    if not levels:
        return None
    return Examples(
        panel=panel,
        ids=ids,
        labels=base["labels"],
        predictions=base["predictions"],
        images=np.moveaxis(base["images"], 1, -1),
        maps=maps,
        levels=levels,
        traces=pd.concat(traces, ignore_index=True),
    )


def _rows_of(run: EvaluationRun, ids: Sequence[str]) -> pd.DataFrame:
    """The run's rows of the chosen images, prediction and probability at each fraction."""
    return read_rows(run.path, run.label, ids).astype({"sample_id": str})


def packed_examples(examples: Examples, side: int) -> list[dict[str, object]]:
    """One JSON-ready object per image; the page's script knows the layout."""
    curves = [curve.key for curve in examples.panel.maps if curve.key in examples.levels]
    traces = _trace_arrays(examples, curves)
    return [
        {
            "id": name,
            "label": int(examples.labels[row]),
            "prediction": int(examples.predictions[row]),
            "fills": _fill_pictures(examples.images[row], examples.panel),
            "levels": _text(zlib.compress(_sampled(examples, curves, row, side).tobytes(), 9)),
            "tones": _text(_tones(examples, curves, row).tobytes()),
            "predictions": _text(traces[0][row].astype("<u2").tobytes()),
            "probabilities": _text(traces[1][row].tobytes()),
        }
        for row, name in enumerate(examples.ids)
    ]


def _spread(kept: Sequence[str], disputed: Sequence[str], count: int) -> list[str]:
    chosen = set(disputed[: min(_ALWAYS_SHOWN, count)])
    rest = [name for name in kept if name not in chosen]
    free = min(count - len(chosen), len(rest))
    chosen |= {rest[place * len(rest) // free] for place in range(free)}
    return [name for name in kept if name in chosen]


def _mixed(ids: Sequence[str], panel: Panel) -> list[str]:
    asked = panel.scores[panel.scores["sample_id"].isin(ids)]
    labels = dict(zip(asked["sample_id"], asked["label"], strict=True))
    seen: dict[object, int] = {}
    turns = []
    for name in ids:
        label = labels.get(name)
        seen[label] = seen.get(label, 0) + 1
        turns.append(seen[label])
    return [ids[at] for at in sorted(range(len(ids)), key=lambda at: turns[at])]


def _disputed(panel: Panel, kept: Sequence[str]) -> list[str]:
    areas = panel.scores
    part = areas[areas["sample_id"].isin(kept)]
    if part.empty:
        return []
    table = part.pivot_table(index=["sample_id", "mode", "fill"], columns="key", values=panel.main)
    gap = (table.max(axis=1) - table.min(axis=1)).groupby("sample_id").max()
    return list(gap.sort_values(ascending=False, kind="stable").index)


def _sampled(examples: Examples, curves: Sequence[str], row: int, side: int) -> np.ndarray:
    """Levels of one image, (curves, side, side) or its own size where that is smaller."""
    stack = np.stack([examples.levels[key][row] for key in curves])
    height, width = stack.shape[1:]
    rows = _centres(height, min(side, height))
    return stack[:, rows][:, :, _centres(width, min(side, width))]


def _centres(size: int, samples: int) -> np.ndarray:
    return ((np.arange(samples) + 0.5) * size / samples).astype(np.intp)


def _levels_size(examples: Examples, side: int) -> int:
    """Estimated from a few images; base64 adds a third."""
    curves = list(examples.levels)
    probe = range(0, len(examples.ids), max(1, len(examples.ids) // 4))
    sizes = [len(zlib.compress(_sampled(examples, curves, row, side).tobytes())) for row in probe]
    return int(np.mean(sizes) * len(examples.ids) * 4 / 3)


def _tones(examples: Examples, curves: Sequence[str], row: int) -> np.ndarray:
    """How bright each level of each map is drawn, (curves, levels) uint8.

    The mean of the map over the pixels of that level, relative to the most salient level.
    """
    count = len(examples.panel.found.facts["fractions"]) + 1
    tones = np.zeros((len(curves), count))
    for place, key in enumerate(curves):
        level = examples.levels[key][row].ravel()
        values = examples.maps[key][row].ravel().astype(np.float64)
        pixels = np.bincount(level, minlength=count)[:count]
        means = np.bincount(level, weights=values, minlength=count)[:count] / np.maximum(pixels, 1)
        tones[place] = means / (means.max() or 1.0)
    return np.rint(np.clip(tones, 0.0, 1.0) * 255).astype(np.uint8)


def _trace_arrays(examples: Examples, curves: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and probability of each image, (N, curves, conditions, fractions)."""
    panel = examples.panel
    fractions = np.asarray(panel.found.facts["fractions"])
    shape = (len(examples.ids), len(curves), len(panel.conditions), len(fractions))
    predictions = np.full(shape, _NOT_MEASURED, dtype=np.uint16)
    probabilities = np.zeros(shape, dtype=np.uint8)
    traces = examples.traces[examples.traces["key"].isin(curves)]
    condition_at = {condition: at for at, condition in enumerate(panel.conditions)}
    conditions = zip(traces["mode"], traces["fill"], strict=True)
    place = (
        traces["sample_id"].map({name: at for at, name in enumerate(examples.ids)}).to_numpy(),
        traces["key"].map({key: at for at, key in enumerate(curves)}).to_numpy(),
        np.array([condition_at[condition] for condition in conditions], dtype=np.intp),
        np.abs(traces["fraction"].to_numpy()[:, None] - fractions).argmin(axis=1),
    )
    predictions[place] = traces["prediction"]
    probabilities[place] = np.rint(traces["probability"].to_numpy() * 255)
    return predictions, probabilities


def _fill_pictures(image: np.ndarray, panel: Panel) -> Mapping[str, object]:
    """The image as a data URI and, per fill that needs one, a colour or a picture to fill with."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")
    picture.thumbnail((_LARGEST_IMAGE, _LARGEST_IMAGE))
    pictures: dict[str, object] = {"image": _picture_uri(picture)}
    for _, fill in panel.conditions:
        if fill == "mean":
            pictures[fill] = [int(value) for value in np.asarray(picture).mean(axis=(0, 1)).round()]
        elif fill in ("blur", "road"):
            radius = BLUR_SHARE * min(picture.size)
            pictures[fill] = _picture_uri(picture.filter(ImageFilter.GaussianBlur(radius)))
        elif fill.startswith("shift"):
            shifted = np.asarray(picture, dtype=np.float64) + 255 * float(fill[5:])
            filled = Image.fromarray(np.rint(np.clip(shifted, 0, 255)).astype(np.uint8))
            pictures[fill] = _picture_uri(filled)
    return pictures


def _picture_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    small = max(picture.size) <= 64
    picture.save(buffer, "WEBP", quality=80, lossless=small, method=6)
    return f"data:image/webp;base64,{_text(buffer.getvalue())}"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
