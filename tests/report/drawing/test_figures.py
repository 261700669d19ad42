"""Figures: what is drawn, with which colours, and the same bytes every time."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.font_manager import findfont, fontManager, get_font

from saliency_lab.report.drawing.figures import (
    condition_text,
    confusion_figure,
    curves_figure,
    example_grid,
    figure_bytes,
    training_figure,
)
from saliency_lab.report.drawing.fonts import fallback_families
from saliency_lab.report.drawing.palette import VIEWS, label_of, order_of, style_of, told_apart

FRACTIONS = np.array([0.0, 0.1, 0.5, 0.9])


def _curves(keys: list[tuple[str, str]], fills: tuple[str, ...]) -> pd.DataFrame:
    parts = []
    for place, (method, view) in enumerate(keys):
        for fill in fills:
            middle = np.exp(-(place + 1) * FRACTIONS)
            part = {"method": method, "view": view, "mode": "deletion", "fill": fill}
            part |= {"fraction": FRACTIONS, "allegiance": middle}
            parts.append(pd.DataFrame(part | {"low": middle - 0.02, "high": middle + 0.02}))
    return pd.concat(parts, ignore_index=True)


def test_curves_are_drawn_black_before_white_in_their_colours() -> None:
    keys = [("gradient", "original"), ("gradient", "active")]
    figure = curves_figure(_curves(keys, ("white", "black")), "A title")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["black-deletion", "white-deletion"]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert set(lines) == {"original", "active"}
    assert to_hex(lines["active"].get_color()) == style_of("gradient", "active").colour
    np.testing.assert_allclose(lines["active"].get_ydata(), np.exp(-2 * FRACTIONS))


def test_twenty_methods_are_spread_over_rows_and_all_drawn() -> None:
    keys = [("gradient", view) for view in VIEWS] + [(f"m{i}", "original") for i in range(15)]
    figure = curves_figure(_curves(keys, ("black",)), "Twenty")
    drawn = [line.get_label() for ax in figure.axes for line in ax.lines]
    assert sorted(drawn) == sorted(label_of(*key) for key in keys)
    assert max(len(ax.lines) for ax in figure.axes) <= 7


def test_two_settings_of_one_method_are_two_lines() -> None:
    keys = [("smoothgrad", "original"), ("smoothgrad", "original")]
    curves = _curves(keys, ("black",))
    half = len(FRACTIONS)
    curves["key"] = ["few"] * half + ["many"] * half
    plain = style_of("smoothgrad", "original")
    styles = {
        "many": replace(plain, label="many samples"),
        "few": replace(plain, label="few samples"),
    }
    figure = curves_figure(curves, "Two", styles=styles)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines) == ["many samples", "few samples"]
    np.testing.assert_allclose(lines["few samples"].get_ydata(), np.exp(-FRACTIONS))
    np.testing.assert_allclose(lines["many samples"].get_ydata(), np.exp(-2 * FRACTIONS))


def test_words_of_a_condition_speak_for_themselves_and_numbers_are_named() -> None:
    names = ("measure", "version")
    for measure in ("MuFidelity", "relevance gain, ROAD", "relevance_gain"):
        assert condition_text(names, (measure, "map")) == f"{measure}, map"
    assert condition_text(("n", "sign"), ("3", "negative")) == "n 3, negative"
    assert condition_text(("mode", "fill"), ("deletion", "black")) == "black-deletion"
    assert condition_text((), ()) == ""


def test_no_curves_is_refused() -> None:
    with pytest.raises(ValueError, match="empty table"):
        curves_figure(_curves([("gradient", "active")], ("black",)).iloc[:0], "Nothing")


def test_the_same_figure_gives_the_same_bytes() -> None:
    curves = _curves([("gradient", "active")], ("black",))
    for kind, mark in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        first, second = (figure_bytes(curves_figure(curves, "Same"), kind) for _ in range(2))
        assert first == second
        assert first.startswith(mark)


def test_training_without_validation_has_one_line_per_chart() -> None:
    metrics = pd.DataFrame(
        {"epoch": [0, 1], "train/loss": [2.0, 1.0], "train/accuracy": [0.1, 0.6]}
    )
    figure = training_figure(metrics)
    assert [len(ax.lines) for ax in figure.axes] == [1, 1]
    metrics["val/loss"] = [np.nan, 1.2]
    both = training_figure(metrics).axes[0].lines
    np.testing.assert_allclose(both[1].get_ydata(), [1.2])


def test_grid_has_a_row_per_image_and_clips_few_extreme_pixels() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    maps = rng.uniform(size=(3, 32, 32))
    maps[0, 0, 0] = 1000.0
    figure = example_grid(images, {"active": maps}, ["cat", "dog", "deer"])
    assert len(figure.axes) == 6
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), images[0])
    assert figure.axes[1].images[0].get_clim()[1] == pytest.approx(np.quantile(maps[0], 0.995))
    with pytest.raises(ValueError, match="Expected 3"):
        example_grid(images, {"active": maps[:2]}, ["cat", "dog", "deer"])


def test_confusion_is_shown_as_shares_of_the_true_class() -> None:
    figure = confusion_figure([[3, 1], [0, 0]], ["cat", "dog"], "Confusion")
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[0.75, 0.25], [0, 0]])
    assert [text.get_text() for text in figure.axes[0].texts] == ["3", "1", "0", "0"]


def test_a_long_name_leaves_the_others_whole(recwarn: pytest.WarningsRecorder) -> None:
    names = ["an ordinary name of a class", "x" * 200, "y" * 100 + "z" * 100]
    figure = confusion_figure(np.eye(3), names, "Test")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "an ordinary … of a class", "x" * 12 + "…" + "x" * 11, "y" * 12 + "…" + "z" * 11,
    ]  # fmt: skip
    pictures = np.zeros((1, 8, 8, 3), np.uint8)
    grid = example_grid(pictures, {"a": np.ones((1, 8, 8))}, ["x" * 200 + ", taken for " + "y"])
    assert grid.axes[0].get_ylabel() == "x" * 15 + "…" + "x" + ", taken for y"
    for one in (figure, grid):
        assert figure_bytes(one)
    assert not [warning for warning in recwarn if "layout" in str(warning.message)]


def test_drawing_leaves_pyplot_alone() -> None:
    code = (
        "import sys, saliency_lab.report.drawing.figures, saliency_lab.report.page.page;"
        "sys.exit(any(name in sys.modules for name in"
        " ('matplotlib.pyplot', 'torch', 'pytorch_lightning', 'hydra', 'wandb')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _contrast(first: str, second: str) -> float:
    lights = []
    for colour in (first, second):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def test_every_colour_is_seen_on_light_and_dark() -> None:
    names = ["gradient", "smoothgrad", "lrp", "lime", "sobel", "of_my_own"]
    for method in names:
        for view in VIEWS:
            colour = style_of(method, view).colour
            for ground in ("#ffffff", "#1b1e23"):
                assert _contrast(colour, ground) >= 3.0, (method, view, colour, ground)


def test_styles_are_fixed_and_tell_methods_apart() -> None:
    colours = {style_of("gradient", view).colour for view in VIEWS}
    assert len(colours) == len(VIEWS)
    smooth = style_of("smoothgrad", "active")
    assert smooth.colour == style_of("gradient", "active").colour
    assert smooth.dash != style_of("gradient", "active").dash
    assert label_of("gradient", "active") == "active"
    assert label_of("integrated_gradients", "original") == "integrated gradients"
    assert label_of("smoothgrad", "active") == "smoothgrad · active"
    keys = [("zzz", "original"), ("smoothgrad", "active"), ("gradient", "inactive")]
    keys += [("gradient", "original")]
    assert sorted(keys, key=lambda key: order_of(*key)) == keys[::-1]


def test_letters_of_any_script_without_warnings(caplog):
    """With an installed font that has them, or with boxes that are told once."""
    names = ["猫", "狗", "cat"]
    figure = confusion_figure([[1, 0, 0], [0, 1, 0], [0, 0, 1]], names, "\U0002a6d6 rare")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert figure_bytes(figure).startswith(b"\x89PNG")
    families = fallback_families(frozenset("猫狗\U0002a6d6"))
    covered = {
        code
        for entry in fontManager.ttflist
        if entry.name in families
        for code in get_font(entry.fname).get_charmap()
    }
    for letter in "猫狗\U0002a6d6":
        assert ord(letter) in covered or letter in caplog.text


def test_a_font_that_has_the_letters_is_found():
    """DejaVu Sans, the usual one, has Armenian; a family without it would have to be found."""
    assert fallback_families(frozenset("Աբ cat")) == ()
    # Only matplotlib's own STIX and Computer Modern fonts are on every machine.
    only_elsewhere = _letter_outside_dejavu()
    (family,) = fallback_families(frozenset([only_elsewhere]))
    assert family != "DejaVu Sans"


def _letter_outside_dejavu():
    usual = set(get_font(findfont("DejaVu Sans")).get_charmap())
    stix = get_font(findfont("STIXNonUnicode")).get_charmap()
    return chr(min(code for code in stix if code not in usual and code > 0xE000))


def test_no_warning_per_letter_that_no_font_has():
    """A font with a box for every letter is none that has it."""
    metrics = pd.DataFrame({"epoch": [0, 1], "train/loss": [2.0, 1.0]})
    figure = training_figure(metrics, "\U0002a6d6 and \U0002a6d5")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert figure_bytes(figure)
    families = fallback_families(frozenset("\U0002a6d6"))
    assert not any(family.startswith("Last Resort") for family in families)


def test_lines_of_one_chart_are_told_apart() -> None:
    sources = ("gradient", "smoothgrad", "gradient_x_input", "attn_lrp", "lrp", "libragrad")
    plain = [style_of(method, "positive") for method in sources]
    apart = told_apart(plain)
    assert len({one.dash for one in plain}) < len(plain)
    assert len({one.dash for one in apart}) == len(apart)
    # The first keep what they have everywhere else; names, hues and markers stay.
    assert apart[:2] == plain[:2]
    assert [one.label for one in apart] == [one.label for one in plain]
    assert {(one.colour, one.marker) for one in apart} == {(plain[0].colour, plain[0].marker)}
    # There are six dashes: a seventh is like one of the others.
    assert told_apart([*plain, style_of("lime", "positive")])[-1].dash in {o.dash for o in apart}
