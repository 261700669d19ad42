"""What a curve is drawn over: the fraction that was asked for, or the share that was deleted."""

from __future__ import annotations

from typing import Literal, get_args

import pandas as pd

from saliency_lab.errors import unknown_choice

Axis = Literal["fraction", "deleted_share"]
AXES: tuple[Axis, ...] = get_args(Axis)
AXIS_NAMES: dict[Axis, str] = {"fraction": "the fraction", "deleted_share": "the deleted share"}


def checked_axis(name: str) -> Axis:
    """The axis of this name.

    Raises:
        UserError: there is no such axis.
    """
    for axis in AXES:
        if axis == name:
            return axis
    raise unknown_choice("curves_over", name, AXES)


def places(curves: pd.DataFrame, axis: Axis) -> pd.Series:
    """Where each row of mean curves lies on an axis, in [0, 1].

    A thresholded map may delete less than the nominal fraction, so points of one fraction lie at
    different places for different maps. An insertion curve begins with every pixel replaced: its
    place is the share that was put back.

    Args:
        curves: columns mode and fraction; for the deleted share also `deleted`, the mean share of
            pixels that are replaced.
        axis: what the curves are drawn over.
    """
    if axis == "fraction":
        return curves["fraction"]
    return curves["deleted"].where(curves["mode"] != "insertion", 1.0 - curves["deleted"])


def axis_title(axis: Axis, mode: str) -> str:
    """What is written below the axis."""
    word = "inserted" if mode == "insertion" else "deleted"
    if axis == "fraction":
        return f"most salient pixels {word}, nominal fraction"
    return f"share of pixels {word}, mean over images"
