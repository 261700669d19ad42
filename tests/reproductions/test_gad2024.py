"""The reproduction of GAD: its commands, and the page from runs that this test writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from saliency_lab.evaluation.hull.evaluator import MASKS, Hull
from saliency_lab.reproductions.gad2024.grid import KEPT, SOURCES, TRAIN, WHOLE, job_words
from saliency_lab.reproductions.gad2024.results import Column, table_rows, write_reproduction


def test_every_source_is_measured_on_half_a_thousand_images():
    jobs = dict(job_words(("experiment=gad2024/x",), ("method.training.epochs=1",), figures=True))
    assert list(jobs) == [TRAIN, *SOURCES, KEPT, WHOLE]
    for source in SOURCES:
        assert {"method=gad", "evaluator=[hull]", "data.limit=512"} <= set(jobs[source])
        assert any(word.endswith(f".{source}") for word in jobs[source])
    assert "method.level=1.0" in jobs[WHOLE]
    assert "method.training.epochs=1" in jobs[KEPT]
    assert jobs[TRAIN] == ("train", "experiment=gad2024/x")
    assert list(dict(job_words((), (), figures=False))) == [TRAIN, *SOURCES]
    own = {"integrated_gradients": ["+method.base.steps=10"]}
    found = dict(job_words((), ("x=1",), figures=False, sources=own))
    changed = [kind for kind, words in found.items() if words[-1] == "+method.base.steps=10"]
    assert changed == ["integrated_gradients"]


def hull_rows(better: float) -> pd.DataFrame:
    """Forty images on which GAD's RC is smaller, and its RS larger, by `better`."""
    rng = np.random.default_rng(0)
    found = []
    for image in range(40):
        complexity, sensitivity = rng.uniform(0.5, 0.7), rng.uniform(1, 2)
        for mask in MASKS:
            gain = better if mask == "gad" else 0.0
            found.append({
                "sample_id": f"i{image}", "label": image % 2, "mask": mask,
                "relative_complexity": complexity - gain,
                "relative_sensitivity": sensitivity + gain,
                "pixels": 10, "hull_pixels": 20, "hull_shape": 0,
            })  # fmt: skip
    return pd.DataFrame(found)


def write_run(directory: Path, better: float, images: int = 3) -> Path:
    directory.mkdir(parents=True)
    rows = hull_rows(better)
    evaluator = Hull()
    facts = evaluator.facts(rows, evaluator.image_scores(rows))
    summary = {
        "status": "finished", "seconds": 1.0, "data": {
            "name": "cifar10", "classes": ["cat", "dog"], "images": 40},
        "model": {"name": "vgg16"}, "accuracy": {"value": 0.7, "low": 0.6, "high": 0.8},
        "evaluators": {"hull-1": {"name": "hull", "facts": facts}},
        "epochs": 3, "test": {"accuracy": 0.75}, "train": {},
    }  # fmt: skip
    (directory / "summary.json").write_text(json.dumps(summary))
    (directory / "environment.json").write_text('{"cpu": "c", "gpu": null, "commit": "d"}')
    maps = np.zeros((images, 12, 12), np.float32)
    maps[:, 2 : 9 - int(5 * better), 3:10] = 1
    np.savez(directory / "maps.npz", images=np.full((images, 3, 12, 12), 90, np.uint8),
             ids=np.array([f"i{n}" for n in range(images)]), gad=maps)  # fmt: skip
    return directory


def test_the_page_says_what_was_found_and_no_more(tmp_path: Path):
    runs = {TRAIN: write_run(tmp_path / "train", 0.0)}
    runs["gradient"] = write_run(tmp_path / "gradient", 0.3)
    runs["deconvnet"] = write_run(tmp_path / "deconvnet", 0.0)
    runs |= {KEPT: write_run(tmp_path / "kept", 0.3), WHOLE: write_run(tmp_path / "whole", 0.0)}
    column = Column("cifar10_vgg16", runs, ("python -m x",), ("trainer.max_epochs=3",))
    page = write_reproduction([column], tmp_path / "docs")
    text = page.read_text()
    assert "cifar10: cat and dog · vgg16" in text
    assert "every control with as good a reason to shrink for 1 of 2 sources" in text
    assert "Reduced or changed: `trainer.max_epochs=3`" in text
    assert "guided_backprop" not in text  # it was not run
    # In the fixture every mask's RC is below 1, so the controls say the same as GAD.
    assert (
        "RC < 1 for most images in 4 of 4 cells, as in the paper; for \n"
        "retraining in 4, random subset in 4, top in 4."
    ) in text
    cells = re.findall(r"\| cifar10_vgg16 \| (\w+) \| (\w+) \| (.*) \|", text)
    assert cells == [
        (source, label, "20 | 20 | 20 | 20 | 20")
        for source in ("gradient", "deconvnet") for label in ("cat", "dog")
    ]  # fmt: skip
    figures = re.findall(r"\((results/[^)]+\.png)\)", text)
    assert len(figures) == 2
    assert all((tmp_path / "docs" / figure).stat().st_size > 1000 for figure in figures)
    lines = {row[1]: row for row in table_rows(column)}
    assert lines["deconvnet"][7:] == [1.0, 1.0, 1.0, 1.0]
    assert lines["gradient"][3] == pytest.approx(lines["deconvnet"][3] - 0.3)
    # A column that was published before stays, and what a person says of it is shown.
    (tmp_path / "docs/results/gad2024/cifar10_vgg16-remarks.md").write_text("Seen by a person.")
    assert "Seen by a person." in write_reproduction([], tmp_path / "docs").read_text()


def test_papers_have_columns_of_their_own(command):
    refused = command("reproduce", "paper=gad2024", "columns=[cifar10_basic_cn]")
    assert (refused.code, "Did you mean 'cifar10_basic_cnn'?" in refused.err) == (2, True)
    refused = command("reproduce", "paper=gad2025")
    assert (refused.code, "gad2024" in refused.err) == (2, True)
    refused = command("reproduce", "paper=gad2024", "sources=['gradients:x=1']")
    assert (refused.code, "Did you mean 'gradient'?" in refused.err) == (2, True)
    refused = command("reproduce", "sources=['gradient:x=1']")
    assert (refused.code, "none but with paper=gad2024" in refused.err) == (2, True)
    refused = command("reproduce", "paper=gad2024", "sources=[gradient]")
    assert (refused.code, "SOURCE:OVERRIDE" in refused.err) == (2, True)
    nothing = command("reproduce", "paper=gad2024", "columns=[cifar10_resnet18]", "run=false")
    assert (nothing.code, "finished runs to compare" in nothing.err) == (2, True)
