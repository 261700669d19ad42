"""The notebooks run from the first cell to the last, and what they show is kept small.

`python -m tests.documentation.test_notebooks` runs them and writes their outputs anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((CHECKOUT / "docs/notebooks").glob("*.ipynb"))
LARGEST = 300_000
"""Bytes of a notebook with its outputs."""


def executed(path: Path, folder: Path) -> Any:
    """The notebook, run in an empty folder by this environment's own interpreter."""
    import nbformat
    from nbclient import NotebookClient

    os.environ.setdefault("PYTHONPATH", str(CHECKOUT))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=400, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute()
    return notebook


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="nbclient is not installed (extra `docs`)")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra `docs`)")
    cells = executed(path, tmp_path).cells
    shown = [
        kind for cell in cells for out in cell.get("outputs", []) for kind in out.get("data", {})
    ]
    assert "image/png" in shown
    assert "text/html" in shown  # a table
    errors = [
        out for cell in cells for out in cell.get("outputs", []) if out.output_type == "error"
    ]
    assert not errors


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_and_small(path: Path) -> None:
    assert path.stat().st_size < LARGEST
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    pictures = [
        out for cell in cells for out in cell["outputs"] if "image/png" in out.get("data", {})
    ]
    if not any(cell["outputs"] for cell in cells):
        pytest.skip(
            "its outputs have not been written: python -m tests.documentation.test_notebooks"
        )
    assert len(pictures) >= 2
    assert "/tmp" not in json.dumps(cells)
    assert "site-packages" not in json.dumps(cells)


if __name__ == "__main__":
    import sys
    import tempfile

    import nbformat

    for one in [path for path in NOTEBOOKS if path.stem in sys.argv[1:] or not sys.argv[1:]]:
        with tempfile.TemporaryDirectory() as place:
            found = executed(one, Path(place))
        for cell in found.cells:
            cell.get("metadata", {}).pop("execution", None)
            # Warnings of the machine that ran it, with its paths.
            kept = [out for out in cell.get("outputs", []) if out.get("name") != "stderr"]
            if "outputs" in cell:
                cell["outputs"] = kept
        found.metadata.pop("language_info", None)
        nbformat.write(found, one)
        print(f"wrote {one}")
