"""Which files of a report's folder of figures go, and which stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from saliency_lab.report.comparing.known import Known
from saliency_lab.report.comparing.panels import build_panels
from saliency_lab.report.drawing.saving import Wanted, saved_apart
from saliency_lab.report.page import figure_files
from saliency_lab.report.page.figure_files import drawn_figures
from saliency_lab.report.reading.records import read_records

from ..rundirs import write_evaluation


def test_old_figures_go_and_what_is_being_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_evaluation(tmp_path, count=12, size=8, shown=4, fills=["black"])
    panels = build_panels(read_records(tmp_path).evaluations)
    folder = tmp_path / "figures"
    folder.mkdir()
    old, left = folder / "curves-of-a-run-that-is-gone.png", folder / ".curves.12-ab.part.png"
    writing = folder / ".curves.34-cd.part.png"
    own = folder / "photograph-of-the-authors.png"
    for path in (old, left, own):
        path.touch()
    # What an earlier report has drawn is known by its name alone.
    (folder / ".digests.json").write_text(f'{{"{old.stem}": null}}')

    @contextmanager
    def slow(wanted: Iterable[Wanted]) -> Iterator[Iterator[None]]:
        """Another process has begun to write its first figure when all are known."""
        asked = list(wanted)
        writing.touch()
        with saved_apart(asked) as finished:
            yield finished

    monkeypatch.setattr(figure_files, "saved_apart", slow)
    with drawn_figures(panels, 4, [], folder, Known()) as written:
        assert not old.exists()
        assert not left.exists()
        assert own.exists()
        assert writing.exists()
    assert written
    assert all(path.is_file() for path in written)
