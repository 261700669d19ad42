"""Randomisation on the page: curves that begin at the intact map, pictures in the steps' order."""

from __future__ import annotations

import base64
import io
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from saliency_lab.evaluation.randomisation import sections
from saliency_lab.report.drawing.figures import figure_bytes
from saliency_lab.report.drawing.palette import Style, style_of
from saliency_lab.report.drawing.pictures import map_png

STEPS = ("head", "middle", "stem")


def curves() -> pd.DataFrame:
    rows = []
    for mode in ("full", "cascading", "independent"):
        for view, start in (("original", 0.8), ("active", 0.2)):
            for step, layer in enumerate(STEPS, start=1):
                value = start / step
                rows.append(
                    {"method": "gradient", "view": view, "mode": mode, "variant": "plain",
                     "step": step, "layer": layer, "spearman": value,
                     "spearman_low": value - 0.1, "spearman_high": value + 0.1}
                )  # fmt: skip
    return pd.DataFrame(rows)


def panel(arrays: dict[str, np.ndarray] | None = None) -> SimpleNamespace:
    run = SimpleNamespace(
        table=lambda name: curves(),
        example_ids=("a", "b", "c"),
        kept_examples=lambda view: arrays or {},
    )
    maps = [
        SimpleNamespace(
            key=f"gradient/{view}", label=view, view=view, run=run,
            style=style_of("gradient", view),
        )
        for view in ("original", "active")
    ]  # fmt: skip
    parts = [(run, "gradient", one.view, one.key) for one in maps]
    return SimpleNamespace(maps=maps, parts=parts, title="shapes · basic_cnn")


def test_cumulative_orders_begin_at_the_intact_map_and_single_ones_do_not() -> None:
    points = sections.layer_points(panel())
    styles = {one.key: one.style for one in panel().maps}
    by_mode = {
        mode: list(sections._lines(part, styles)) for (mode, _), part in sections._parts(points)
    }
    assert set(by_mode) == {"cascading", "independent"}  # all at once is one number, no curve
    first = by_mode["cascading"][0]
    assert first.x == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert first.y == pytest.approx([1, 0.8, 0.4, 0.8 / 3])
    assert first.low == pytest.approx([1, 0.7, 0.3, 0.8 / 3 - 0.1])
    alone = by_mode["independent"][1]
    assert alone.x == pytest.approx([1 / 3, 2 / 3, 1])
    assert alone.y == pytest.approx([0.2, 0.1, 0.2 / 3])


def test_charts_and_figures_show_every_order() -> None:
    names = [chart["name"] for chart in sections.charts(panel())]
    assert names == ["randomised from the output downwards", "randomised one group at a time"]
    figure = sections.panel_figures(panel())["randomisation"]()
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == names
    assert [len(ax.lines) for ax in figure.axes] == [3, 3]  # two maps and the zero


def test_many_maps_are_spread_over_rows_with_a_legend_each() -> None:
    points, styles = sections.layer_points(panel()), {}
    many = []
    for number in range(16):
        key = f"map {number}"
        styles[key] = Style("#0072b2", (), "o", f"a source of a long name {number}")
        many.append(points[points["key"] == panel().maps[0].key].assign(key=key))
    figure = sections.layers_figure(pd.concat(many), styles, "shapes")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that there is no room left for the axes
        assert figure_bytes(figure)
    rows = [figure.axes[place : place + 2] for place in (0, 2, 4)]
    assert [len(ax.lines) - 1 for row in rows for ax in row] == [5, 5, 5, 5, 6, 6]
    named = [len(row[-1].get_legend().get_texts()) for row in rows]
    assert named == [5, 5, 6]


def test_pictures_are_the_intact_map_and_the_steps_in_their_order() -> None:
    rng = np.random.default_rng(1)
    steps = rng.integers(0, 256, (3, len(STEPS), 4, 4), dtype=np.uint8)
    arrays = {"map": np.zeros((3, 4, 4), np.float16), "steps": steps}
    found = sections.pictures(panel(arrays))
    assert [row["label"] for row in found] == ["original", "original", "active", "active"]
    assert [cell["name"] for cell in found[0]["cells"]] == ["intact", *STEPS]
    assert found[0]["cells"][2]["png"] == map_png(steps[0, 1])
    assert found[1]["cells"][3]["png"] == map_png(steps[1, 2])
    assert sections.pictures(panel()) == []


def test_a_picture_has_the_levels_of_its_map() -> None:
    values = np.arange(16, dtype=np.uint8).reshape(4, 4) * 17
    picture = Image.open(io.BytesIO(base64.b64decode(map_png(values))))
    assert picture.size == (4, 4)
    np.testing.assert_array_equal(np.asarray(picture), values)
    light = np.asarray(picture.convert("RGB")).astype(int).sum(2)
    assert (np.diff(light.ravel()) > 0).all()  # brighter means more
    wide = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(map_png(np.zeros((200, 100), np.uint8)))))
    )
    assert wide.shape == (64, 32)
