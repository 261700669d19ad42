"""The published areas that a reproduction is compared with.

Llorente, Boal, Sánchez-Úbeda, "A matter of attitude: Focusing on positive and active gradients to
boost saliency maps": accuracies and areas under the deletion curves of the reference experiment.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

# The signed view and the one that compares classes, for each fill of the paper.
PUBLISHED_VIEWS = {
    "black": ("original", "positive", "active"),
    "white": ("original", "negative", "inactive"),
}
# The shares of pixels that are deleted. `PAPER_FRACTIONS` is the same; it lies beside the
# arithmetic, and so behind torch, for which a page of results need not wait.
PUBLISHED_FRACTIONS = (0.0, 0.03, 0.05, 0.07, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# How the maps were made: all classes compared, the largest channel.
PUBLISHED_SETTINGS = {"view.channels": "max", "view.competitors": "none"}


@dataclass(frozen=True)
class Published:
    """One published pair of model and data: title, test accuracy, areas by (fill, view)."""

    title: str
    accuracy: float
    areas: dict[tuple[str, str], float]


def published(data: str, model: str, pretrained: bool) -> Published | None:
    """The paper's numbers for a data set and model of the reference experiment, else None."""
    return _table().get((data, model, pretrained))


def title_of(data: str, model: str, pretrained: bool) -> str:
    """What a pair of data and model is called: "CIFAR-10 · ResNet-18", or the plain names."""
    entry = published(data, model, pretrained)
    return entry.title if entry else f"{data} · {model}{' (pre-trained)' if pretrained else ''}"


@cache
def _table() -> dict[tuple[str, str, bool], Published]:
    text = (
        files("saliency_lab.reproductions.llorente2023")
        .joinpath("published.csv")
        .read_text(encoding="utf-8")
    )
    table: dict[tuple[str, str, bool], Published] = {}
    for line in csv.DictReader(text.splitlines()):
        place = (line["data"], line["model"], line["pretrained"] == "yes")
        new = Published(line["title"], float(line["accuracy"]), {})
        entry = table.setdefault(place, new)
        values = (line["original"], line["signed"], line["extreme"])
        for view, value in zip(PUBLISHED_VIEWS[line["fill"]], values, strict=True):
            entry.areas[line["fill"], view] = float(value)
    return table
