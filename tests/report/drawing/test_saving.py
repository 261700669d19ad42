"""Figures that other processes draw are those that are drawn here."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from saliency_lab.report.drawing import saving
from saliency_lab.report.drawing.figures import training_figure
from saliency_lab.report.drawing.saving import Wanted, save_figure, saved_apart


@pytest.fixture(autouse=True)
def figures_are_drawn_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "WORTH_IT", 6)


def wanted(folder: Path, count: int) -> list[Wanted]:
    metrics = pd.DataFrame({"epoch": [1, 2], "train/loss": [2.0, 1.0], "train/accuracy": [0, 0.5]})
    return [
        (partial(training_figure, metrics, f"figure {number}"), [folder / f"{number}.png"])
        for number in range(count)
    ]


def test_many_figures_are_drawn_apart_and_are_the_same(tmp_path: Path) -> None:
    drawings = wanted(tmp_path / "apart", 7)
    own, paths = drawings[0]
    assert isinstance(own, partial)
    # A function that no other process can find by its name is drawn here.
    drawings[0] = (partial(lambda *_: own(), 1), paths)
    with saved_apart(drawings, processes=2) as finished:
        assert len(list(finished)) == 7
    for place in (0, 5):
        save_figure(*wanted(tmp_path / "here", 7)[place])
        apart, here = (tmp_path / folder / f"{place}.png" for folder in ("apart", "here"))
        assert apart.read_bytes() == here.read_bytes()
    assert apart.read_bytes() != (tmp_path / "apart" / "4.png").read_bytes()


def test_few_figures_are_drawn_here_once_they_are_asked_for(tmp_path: Path) -> None:
    with saved_apart(wanted(tmp_path, 2), processes=2) as finished:
        assert not (tmp_path / "0.png").exists()
        assert len(list(finished)) == 2
    assert (tmp_path / "1.png").is_file()


def test_an_error_of_a_drawing_comes_up(tmp_path: Path) -> None:
    drawings = wanted(tmp_path, 6)
    drawings[3] = (partial(training_figure, None, "none"), drawings[3][1])
    with pytest.raises(TypeError), saved_apart(drawings, processes=2) as finished:
        list(finished)
