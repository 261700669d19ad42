"""The reference experiment as a sweep, on a tiny CIFAR-10 that the test makes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import saliency_lab.models.basic_cnn  # noqa: F401  (registers basic_cnn with timm)
from saliency_lab.config.location import config_directory
from saliency_lab.reproductions.llorente2023.results import Column, Place, write_reproduction
from saliency_lab.reproductions.llorente2023.workload import WORKLOADS
from saliency_lab.reproductions.published import published

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TINY = ["trainer.max_epochs=1", "trainer.threads=1", "logger=none"]


@pytest.fixture
def tiny_cifar10(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for name in CLASSES:
            folder = tmp_path / "images" / "cifar10" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:04d}.png")
    return tmp_path / "images"


def test_a_column_is_trained_measured_on_both_splits_compared_and_resumed(
    command: Callable[..., Any], tiny_cifar10: Path
) -> None:
    quoted = ",".join(f'"{word}"' for word in TINY)
    words = ("reproduce", "columns=[cifar10_basic_cnn]", f"root={tiny_cifar10}",
             f"overrides=[{quoted}]", "publish=docs")  # fmt: skip
    done = command(*words)
    assert done.code == 0, done.err
    # What it is about to do comes first.
    plan, _, shown = done.out.partition("The paper and this run")
    assert "black, original" in shown
    assert re.search(r"cifar10_basic_cnn +– +train, grids, test, train-split +\d+ (s|min)\n", plan)
    page = Path("docs/reproduction.md").read_text()
    assert "CIFAR-10 · CNN" in page
    assert "appendix B" in page
    for figure in re.findall(r"\((results/[^)]+\.png)\)", page):
        assert (Path("docs") / figure).is_file(), figure
    assert "cifar10_basic_cnn-train-split-curves.png" in page
    assert "| accuracy | 0.6307 |" in page
    assert str(tiny_cifar10) not in page
    record = json.loads(Path("docs/results/cifar10_basic_cnn.json").read_text())
    assert sorted(record["evaluations"]) == ["test", "train-split"]
    assert record["evaluations"]["train-split"]["images"] == 40
    again = command(*words)
    assert again.code == 0
    assert again.err.count("already finished") == 4
    assert re.search(r"cifar10_basic_cnn +train, grids, test, train-split +– +–\n", again.out)
    assert list(Path("outputs/explain/cifar10/basic_cnn").rglob("grid.png"))
    # A second seed is not there: nothing is run for it, and the page is made of the first.
    shown = command(*words, "seeds=[42,7]", "run=false")
    assert shown.code == 0
    assert "running:" not in shown.err
    # A seed that is missing is taken to last as long as the one that is there.
    row = next(line for line in shown.out.splitlines() if line.startswith("cifar10_basic_cnn "))
    assert re.search(r"train \(42\), grids \(42\), .* +train \(7\), grids \(7\), .* \d+ s$", row)
    assert not list(Path("outputs/train").rglob("seed-7*"))


def test_unknown_columns_and_splits_are_refused(command: Callable[..., Any]) -> None:
    refused = command("reproduce", "columns=[cifar10_basic_cn]")
    assert (refused.code, "Did you mean 'cifar10_basic_cnn'?" in refused.err) == (2, True)
    assert command("reproduce", "splits=[val]").code == 2


def test_a_launcher_that_starts_it_several_times_is_refused(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    refused = command("reproduce", "columns=[cifar10_basic_cnn]", "run=false")
    assert refused.code == 2
    assert "to be started once, but a launcher has started 2 of it" in refused.err


def test_failing_jobs_are_listed_and_the_others_run(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    done = command("reproduce", "columns=[cifar10_basic_cnn]", "splits=[test]",
                   f"root={tmp_path}/nowhere")  # fmt: skip
    assert done.code == 2
    assert "3 of 3 jobs failed: python -m saliency_lab train experiment=" in done.err
    assert done.err.count("data.root") >= 1


def write_run(directory: Path, seed: int, areas: dict[str, list[float]]) -> Place:
    """An evaluation of two views with these areas per image."""
    directory.mkdir(parents=True)
    frames = [
        pd.DataFrame({"sample_id": range(len(values)), "method": "gradient", "view": view,
                      "mode": "deletion", "fill": "black", "allegiance": values})
        for view, values in areas.items()
    ]  # fmt: skip
    (directory / "scores").mkdir()
    pd.concat(frames).to_parquet(directory / "scores" / "deletion.parquet")
    curve = pd.DataFrame({"method": "gradient", "view": "active", "mode": "deletion",
                          "fill": "black", "fraction": [0.0, 0.9], "allegiance": [1.0, 0.1],
                          "low": [1.0, 0.0], "high": [1.0, 0.2],
                          "deleted": [0.0, 0.52]})  # fmt: skip
    curve.to_csv(directory / "deletion-curves.csv", index=False)
    rows = [
        {"method": "gradient", "view": view, "condition": {"mode": "deletion", "fill": "black"},
         "score": "allegiance", "value": float(np.mean(values))}
        for view, values in areas.items()
    ]  # fmt: skip
    distance = float(np.mean(areas["original"]) - np.mean(areas["active"]))
    first = {
        "a": {"method": "gradient", "view": "original"},
        "b": {"method": "gradient", "view": "active"},
        "condition": {"mode": "deletion", "fill": "black"}, "score": "allegiance",
        "difference": distance, "low": distance - 0.01, "high": distance + 0.01, "p": 0.01,
        "p_holm": 0.02,
    }  # fmt: skip
    summary = {
        "task": "evaluate", "status": "finished", "data": {"name": "cifar10", "images": 3},
        "model": {"name": "basic_cnn"}, "seed": seed, "seconds": 1.0,
        "evaluators": {"deletion": {"name": "deletion", "facts": {"protocol": "threshold"},
                                    "means": rows, "comparisons": [first]}},
    }  # fmt: skip
    (directory / "summary.json").write_text(json.dumps(summary))
    environment = {"cpu": "a processor", "gpu": [], "cores": 2, "threads": 1, "python": "3.11",
                   "commit": None, "versions": {"torch": "2"}}  # fmt: skip
    (directory / "environment.json").write_text(json.dumps(environment))
    return Place(directory, "deletion")


def test_seeds_are_combined_and_their_agreement_on_the_order_is_counted(tmp_path: Path) -> None:
    first = {"original": [0.3, 0.3, 0.3], "active": [0.1, 0.1, 0.1]}
    second = {"original": [0.2, 0.2, 0.2], "active": [0.3, 0.3, 0.3]}
    runs = {
        ("test", 1): write_run(tmp_path / "1", 1, first),
        ("test", 2): write_run(tmp_path / "2", 2, second),
    }
    column = Column("cifar10_basic_cnn", runs, ("python -m saliency_lab train",))
    areas = column.areas("test")
    assert areas["active", "deletion", "black"].value == pytest.approx(0.2)
    # Images of one seed do not differ here: Student's interval of two seeds, 12.7 × 0.05 and more
    # to either side, and no area is below 0 or above 1.
    assert areas["active", "deletion", "black"][1:] == (0, 1)
    low, high = areas["original", "deletion", "black"][1:]
    assert (low, high) == pytest.approx((0, 0.25 + np.tan(0.475 * np.pi) * 0.05))
    page = write_reproduction([column], tmp_path / "docs").read_text()
    assert "active < original (the order of 1 of 2 seeds)" in page
    assert "- active (black, seed 1): flat from 90% on (the paper: near 50%)" in page
    said = "+0.050 (+0.200, -0.100 by seed; seed 1 paired over images, Wilcoxon with Holm p = 0.02"
    assert f"- black: original − active = {said}, significant)" in page
    assert "on average 52% of a map's pixels are not 0" in page
    # 0.2 against the paper's 0.15 is more than 0.03 away, 0.25 against 0.23 is not.
    assert "| black, active | 0.15 | 0.200 | [0.000, 1.000] | 2 | +0.050 | higher |" in page
    assert "| black, original | 0.23 | 0.250 | [0.000, 0.885] | 2 | +0.020 | same |" in page
    assert "between its 2 seeds an area moves by up to 0.200. Intervals" in page


def test_each_training_tells_where_it_ran(tmp_path: Path) -> None:
    areas = {"original": [0.3, 0.3, 0.3], "active": [0.1, 0.1, 0.1]}
    runs = {("test", 1): write_run(tmp_path / "test", 1, areas)}
    for seed in (1, 2):
        directory = tmp_path / f"train-{seed}"
        write_run(directory, seed, areas)
        runs["train", seed] = Place(directory)
        environment = json.loads((directory / "environment.json").read_text())
        told = json.dumps(environment | {"threads": 10 + seed})
        (directory / "environment.json").write_text(told)
        test = {"accuracy": 0.6, "low": 0.5, "high": 0.7, "loss": 1.0, "images": 3}
        summary = {"status": "finished", "epochs": 50, "test": test, "train": {"accuracy": 0.9},
                   "training_seconds": 3600.0}  # fmt: skip
        (directory / "summary.json").write_text(json.dumps(summary))
    page = write_reproduction([Column("cifar10_basic_cnn", runs, ())], tmp_path / "docs")
    text = page.read_text()
    assert "- Seed 1: 50 epochs in 1.0 h (a processor, 11 threads, torch 2)" in text
    assert "- Seed 2: 50 epochs in 1.0 h (a processor, 12 threads, torch 2)" in text


def test_columns_published_before_stay_on_the_page_in_the_papers_order(tmp_path: Path) -> None:
    areas = {"original": [0.25, 0.21, 0.2], "active": [0.1, 0.1, 0.1]}
    runs = {("test", 1): write_run(tmp_path / "1", 1, areas)}
    write_reproduction([Column("imagenette_basic_cnn", runs, ())], tmp_path / "docs")
    words = ("data.limit=3",)
    remark = "White areas move by 0.03 between two epochs.\n"
    (tmp_path / "docs/results/imagenette_basic_cnn-remarks.md").write_text(remark)
    page = write_reproduction([Column("cifar10_basic_cnn", runs, (), words)], tmp_path / "docs")
    text = page.read_text()
    (_, second) = text.split("### Test images")[1:]
    assert f"### Remarks\n\n{remark}\n" in second
    assert text.count("### Remarks") == 1
    glance = next(line for line in text.splitlines() if line.startswith("| black, original"))
    assert glance == "| black, original | 0.220 (0.23) | 0.220 (0.23) |"
    assert text.count("- `data.limit=3`: on some of the images only") == 1
    assert "| departs in | `data.limit=3` | – |" in text
    sections = [line for line in text.splitlines() if line.startswith("## ")]
    assert len(sections) == 4
    assert "`cifar10_resnet18`" in text.split("Not run yet: ")[1].splitlines()[0]


def test_curves_of_an_earlier_training_do_not_outlive_it(tmp_path: Path) -> None:
    areas = {"original": [0.25, 0.21, 0.2], "active": [0.1, 0.1, 0.1]}
    runs = {("test", 1): write_run(tmp_path / "1", 1, areas)}
    both = runs | {("train-split", 1): write_run(tmp_path / "2", 1, areas)}
    results = tmp_path / "docs" / "results"
    for given, kinds in ((both, {"test", "train-split"}), (runs, {"test"})):
        write_reproduction([Column("cifar10_basic_cnn", given, ())], tmp_path / "docs")
        found = {path.name for path in results.glob("*-curves.*")}
        assert found == {
            f"cifar10_basic_cnn-{kind}-curves.{ending}"
            for kind in kinds
            for ending in ("csv", "png")
        }


def test_results_of_another_version_are_left_out_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    areas = {"original": [0.25, 0.21, 0.2], "active": [0.1, 0.1, 0.1]}
    runs = {("test", 1): write_run(tmp_path / "1", 1, areas)}
    results = tmp_path / "docs" / "results"
    write_reproduction([Column("imagenette_basic_cnn", runs, ())], tmp_path / "docs")
    older = json.loads((results / "imagenette_basic_cnn.json").read_text())
    del older["departures"]
    (results / "imagenette_basic_cnn.json").write_text(json.dumps(older))
    (results / "imagenette_resnet18.json").write_text('{"column": "im')
    page = write_reproduction([Column("cifar10_basic_cnn", runs, ())], tmp_path / "docs")
    assert page.read_text().count("### Test images") == 1
    assert "imagenette_basic_cnn.json lacks departures and was left out" in caplog.text
    assert "imagenette_resnet18.json is corrupt" in caplog.text


def test_a_column_in_another_form_than_todays_experiment_is_shown_as_a_departure(
    tmp_path: Path,
) -> None:
    areas = {"original": [0.25, 0.21, 0.2], "active": [0.1, 0.1, 0.1]}
    test = {"accuracy": 0.6, "low": 0.5, "high": 0.7, "loss": 1.0, "images": 3}
    summary = {"status": "finished", "epochs": 50, "test": test, "train": {"accuracy": 0.9},
               "training_seconds": 3600.0, "data": {"name": "cifar10"},
               "model": {"name": "resnet18"}}  # fmt: skip

    def page(name: str, model: dict[str, Any], given: tuple[str, ...] = ()) -> str:
        runs = {
            ("test", 1): write_run(tmp_path / name / "test", 1, areas),
            ("train", 1): write_run(tmp_path / name / "train", 1, areas),
        }
        training = runs["train", 1].directory
        (training / "summary.json").write_text(json.dumps(summary))
        (training / "config.yaml").write_text(json.dumps({"model": model}))
        column = Column("cifar10_resnet18", runs, (), given)
        return write_reproduction([column], tmp_path / name / "docs").read_text()

    today = page("today", {"head": "on_logits", "zero_init_last": False, "freeze_bn": False})
    assert "departs in" not in today
    # A training of a time that had no choice of the last batch norms' start.
    older = page("older", {"head": "replace"})
    assert "| departs in | `model.head=replace` `model.zero_init_last=null` |" in older
    assert "- `model.zero_init_last=null`: timm's initialisation" in older
    # What was given by name is told once.
    given = page("given", {"head": "replace", "zero_init_last": False}, ("model.head=replace",))
    assert "| departs in | `model.head=replace` |" in given


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_arithmetic_of_a_column_is_that_of_its_network(name: str) -> None:
    network = name.removesuffix("_pretrained").split("_", 1)[1].replace("convnext", "convnext_tiny")
    side = 32 if name.startswith("cifar10") else 224
    # All but the small CNN keep their 1,000 outputs and have a layer on top of them.
    outputs, top = (10, 0) if network == "basic_cnn" else (1000, 2 * 1000 * 10)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        timm.create_model(network, num_classes=outputs).eval()(torch.rand(1, 3, side, side))
    gflop = (counter.get_total_flops() + top) / 1e9
    assert WORKLOADS[name].gflop == pytest.approx(gflop, rel=0.005)


def test_every_experiment_of_the_paper_has_its_workload() -> None:
    folder = config_directory() / "experiment" / "llorente2023"
    assert set(WORKLOADS) == {path.stem for path in folder.glob("*.yaml")}
    # 50 epochs of three passes, 73 passes of both splits, by hand.
    assert WORKLOADS["cifar10_resnet18"].tflop == pytest.approx(0.075 * (7500 + 4380))


def test_the_published_numbers_are_those_of_the_paper() -> None:
    convnext = published("imagenette", "convnext_tiny", True)
    assert convnext is not None
    assert (convnext.accuracy, convnext.areas["white", "inactive"]) == (0.9932, 0.42)
    assert published("imagenette", "convnext_tiny", False) is None
