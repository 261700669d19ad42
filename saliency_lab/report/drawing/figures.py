"""Figures for a paper or a talk, drawn without pyplot so that no global state is touched."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine, PlaceHolderLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from saliency_lab.report.drawing.axes import Axis, axis_title, places
from saliency_lab.report.drawing.canvas import (
    INK,
    MUTED,
    in_rows,
    new_canvas,
    plain_axes,
    row_legend,
)
from saliency_lab.report.drawing.fonts import take_names_as_they_are, use_fonts_with_all_letters
from saliency_lab.report.drawing.overlay import overlaid
from saliency_lab.report.drawing.palette import MAP_COLOURS, Style, order_of, style_of


def curves_figure(
    curves: pd.DataFrame,
    title: str,
    over: Axis = "fraction",
    styles: Mapping[str, Style] | None = None,
) -> Figure:
    """Allegiance against the fraction or the deleted share, one column per fill, with its band.

    Args:
        curves: columns method, view, mode, fill, fraction, allegiance, low, high (in [0, 1]), and
            `deleted` for the deleted share.
        title: above the figure, for example "CIFAR-10 · ResNet-18".
        over: the horizontal axis; the points are the same, only their places differ.
        styles: of every line, by the column `key`, in the order of the legend; None: a line for
            each method and view.

    Returns:
        A figure with one row for up to seven lines; more are spread over several rows.
    """
    columns = _conditions(curves)
    if styles is None:
        curves, styles = _by_method_and_view(curves)
    rows = in_rows([key for key in styles if key in set(curves["key"])])
    height = 0.75 + 2.75 * len(rows)
    figure, axes = new_canvas(2.05 + 3.1 * len(columns), height, len(rows), len(columns))
    for line, keys in enumerate(rows):
        for column, (mode, fill) in enumerate(columns):
            ax = axes[line, column]
            part = curves[(curves["mode"] == mode) & (curves["fill"] == fill)]
            _draw_curves(ax, part, {key: styles[key] for key in keys}, over)
            bottom = axis_title(over, mode) if line == len(rows) - 1 else ""
            _name_axes(ax, column == 0, bottom)
            if line == 0:
                ax.set_title(condition_name(mode, fill), fontsize=10, color=INK, loc="left")
        row_legend(axes[line, -1], axes[line])
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return figure


def training_figure(metrics: pd.DataFrame, title: str = "Training") -> Figure:
    """Loss and accuracy per epoch, train and (where there is one) validation.

    Args:
        metrics: columns epoch, train/loss, train/accuracy and maybe val/loss, val/accuracy.
        title: above the figure.
    """
    figure, axes = new_canvas(7.2, 3.0, 1, 2)
    for ax, name in zip(axes[0], ("loss", "accuracy"), strict=True):
        for part, colour, dash in (("train", "#0072b2", "-"), ("val", "#d55e00", "--")):
            column = f"{part}/{name}"
            if column in metrics:
                seen = metrics.loc[metrics[column].notna(), ["epoch", column]]
                label = {"train": "training", "val": "validation"}[part]
                marker = "o" if len(seen) < 2 else ""
                ax.plot(seen["epoch"], seen[column], dash, color=colour, label=label, marker=marker)
        plain_axes(ax)
        ax.set_xlabel("epoch", fontsize=9, color=MUTED)
        ax.set_title(name, fontsize=10, color=INK, loc="left")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if ax.has_data():
            ax.legend(frameon=False, fontsize=8)
    axes[0, 1].yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return figure


def example_grid(
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    row_labels: Sequence[str],
    *,
    overlay: bool = False,
) -> Figure:
    """One row per example: the image, then its maps, each scaled to its own 99.5th percentile.

    Args:
        images: uint8, shape (N, H, W, C) with C of 1 or 3.
        maps: name of the column to maps of shape (N, H, W), any scale.
        row_labels: N short texts, for example "cat, taken for dog".
        overlay: each map over its image (`overlay.overlaid`), not by itself.

    Raises:
        ValueError: the numbers of images, maps and labels differ.
    """
    count = len(images)
    sizes = {name: len(values) for name, values in maps.items()} | {"row_labels": len(row_labels)}
    if count == 0 or set(sizes.values()) != {count}:
        raise ValueError(f"Expected {count} (at least 1) maps and row labels, but got {sizes}.")
    columns = 1 + len(maps)
    figure, axes = new_canvas(0.9 + 1.15 * columns, 0.35 + 1.18 * count, count, columns)
    figure.set_layout_engine(
        ConstrainedLayoutEngine(w_pad=0.015, h_pad=0.015, wspace=0.0, hspace=0.0)
    )
    for row in range(count):
        picture = images[row, ..., 0] if images.shape[-1] == 1 else images[row]
        axes[row, 0].imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        for column, values in enumerate(maps.values(), start=1):
            own = np.asarray(values[row], dtype=np.float64)
            if overlay:
                axes[row, column].imshow(overlaid(images[row], own), interpolation="nearest")
            else:
                _draw_map(axes[row, column], own)
        label = _shortened(row_labels[row], 30)
        axes[row, 0].set_ylabel(label, fontsize=8, color=INK, rotation=0, ha="right", va="center")
    for ax, name in zip(axes[0], ("image", *maps), strict=True):
        ax.set_title(name.replace(" · ", "\n"), fontsize=8, color=INK)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return figure


def confusion_figure(
    confusion: Sequence[Sequence[int]] | np.ndarray, classes: Sequence[str], title: str
) -> Figure:
    """Confusion matrix in per cent of each true class; counts are written up to 20 classes.

    Args:
        confusion: counts, shape (K, K), true classes down, predicted classes across.
        classes: K names.
        title: above the figure.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    side = min(2.4 + 0.36 * len(counts), 11.0)
    figure, axes = new_canvas(side + 0.9, side, 1, 1)
    ax = axes[0, 0]
    picture = ax.imshow(share, cmap="cividis", vmin=0.0, vmax=1.0)
    if len(counts) <= 40:
        names = [_shortened(name, 24) for name in classes]
        ax.set_xticks(range(len(counts)), names, rotation=60, ha="right", fontsize=7)
        ax.set_yticks(range(len(counts)), names, fontsize=7)
    if len(counts) <= 20:
        for (row, column), count in np.ndenumerate(counts):
            ink = "#000000" if share[row, column] > 0.55 else "#ffffff"
            ax.text(column, row, f"{int(count)}", ha="center", va="center", fontsize=6, color=ink)
    ax.set_xlabel("predicted", fontsize=9, color=MUTED)
    ax.set_ylabel("true", fontsize=9, color=MUTED)
    bar = figure.colorbar(picture, ax=ax, shrink=0.7, format=PercentFormatter(1.0))
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    return figure


def _shortened(name: str, most: int) -> str:
    """A long name without its middle: one such name would leave a figure no room for itself."""
    if len(name) <= most:
        return name
    return f"{name[: most // 2]}…{name[len(name) - (most - 1) // 2 :]}"


def _solve_layout(figure: Figure) -> None:
    """Fix the places of a figure's parts, once: it takes as long as drawing, and holds for all
    files of a figure."""
    engine = figure.get_layout_engine()
    if isinstance(engine, PlaceHolderLayoutEngine):  # what a solved layout leaves behind
        return
    take_names_as_they_are(figure)
    use_fonts_with_all_letters(figure)
    if engine is not None:
        with _missing_letters_unsaid():
            engine.execute(figure)
        figure.set_layout_engine("none")


def figure_bytes(figure: Figure, kind: str = "png", dpi: int = 150) -> bytes:
    """The figure as a file's bytes ("png" or "pdf"); the same figure gives the same bytes."""
    metadata = {"Software": None} if kind == "png" else {"CreationDate": None, "Producer": None}
    buffer = io.BytesIO()
    _solve_layout(figure)
    # 42 embeds TrueType, which journals ask for and which keeps text selectable.
    with mpl.rc_context({"pdf.fonttype": 42}), _missing_letters_unsaid():
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


@contextlib.contextmanager
def _missing_letters_unsaid() -> Iterator[None]:
    """Without matplotlib's warning for each letter: they are named once where no font has them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def condition_name(mode: str, fill: str) -> str:
    """What a panel shows, in words: "black-deletion", "deletion, shift+0.1"."""
    return f"{fill}-{mode}" if fill.isalpha() else f"{mode}, {fill}"


def condition_text(names: Sequence[str], values: Sequence[str]) -> str:
    """A condition in words: "black-deletion", "n 3, negative", or nothing where there is none.

    A value with a digit in it is named by what it is a value of; words speak for themselves.
    """
    if tuple(names) == ("mode", "fill"):
        return condition_name(*values)
    return ", ".join(
        f"{name} {value}" if any(sign.isdigit() for sign in value) else value
        for name, value in zip(names, values, strict=True)
    )


_READ_FIRST = {"deletion": 0, "insertion": 1, "black": 0, "white": 1}


def ordered_conditions(conditions: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Conditions as they are read: deletion before insertion, black, white, the rest."""

    def rank(condition: tuple[str, ...]) -> list[tuple[int, str]]:
        return [(_READ_FIRST.get(value, len(_READ_FIRST)), value) for value in condition]

    return sorted(set(conditions), key=rank)


def _conditions(curves: pd.DataFrame) -> list[tuple[str, ...]]:
    if curves.empty:
        raise ValueError("Expected `curves` to have rows, but got an empty table.")
    return ordered_conditions(zip(curves["mode"], curves["fill"], strict=True))


def _by_method_and_view(curves: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Style]]:
    keys = curves["method"].astype(str) + "/" + curves["view"].astype(str)
    pairs = sorted(
        set(zip(curves["method"], curves["view"], strict=True)), key=lambda p: order_of(*p)
    )
    return curves.assign(key=keys), {"/".join(pair): style_of(*pair) for pair in pairs}


def _draw_curves(ax: Axes, curves: pd.DataFrame, styles: Mapping[str, Style], over: Axis) -> None:
    for key, style in styles.items():
        part = curves[curves["key"] == key].sort_values("fraction")
        if part.empty:
            continue
        place = places(part, over)
        ax.fill_between(place, part["low"], part["high"], color=style.colour, alpha=0.14, lw=0)
        (line,) = ax.plot(
            place,
            part["allegiance"],
            color=style.colour,
            marker=style.marker,
            markersize=3.4,
            lw=1.5,
            label=style.label,
        )
        if style.dash:
            line.set_dashes(style.dash)


def _name_axes(ax: Axes, left: bool, bottom: str) -> None:
    plain_axes(ax)
    ax.set(ylim=(-0.02, 1.02))
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if left:
        ax.set_ylabel("allegiance", fontsize=9, color=MUTED)
    if bottom:
        ax.set_xlabel(bottom, fontsize=9, color=MUTED)


def _draw_map(ax: Axes, values: np.ndarray) -> None:
    # A few extreme pixels would leave a gradient's map black; the paper's pictures clip as well.
    top = float(np.quantile(values, 0.995)) or float(values.max()) or 1.0
    ax.imshow(values, cmap=MAP_COLOURS, vmin=min(0.0, float(values.min())), vmax=top)
