"""Run directories that the report's tests share, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from saliency_lab.report.drawing import saving
from saliency_lab.report.page.page import ReportFiles, write_report

from .rundirs import write_evaluation, write_training


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classifiers, one of them with ten maps of five methods and a control, another with two
    seeds, a training, and runs that cannot be shown."""
    root = tmp_path_factory.mktemp("outputs")
    write_evaluation(root)
    write_evaluation(root, name="smooth/seed=42", method="smoothgrad", views=["original", "active"])
    for method in ("integrated_gradients", "grad_cam"):
        write_evaluation(root, name=f"{method}/seed=42", method=method, views=["original"])
    write_evaluation(
        root, name="control/seed=42", method="random_map", views=["original"], control=True
    )
    write_evaluation(root, model="basic_cnn", seed=7)
    for seed in (1, 2):
        write_evaluation(
            root, data="shapes", seed=seed, name=f"paper/seed-{seed}", count=20, size=8, shown=4
        )
    write_training(root)
    write_training(root, model="basic_cnn", finished=False, epochs=3)
    failed = root / "evaluate" / "cifar10" / "convnext_tiny" / "paper" / "seed=42"
    failed.mkdir(parents=True)
    (failed / "config.yaml").write_text("task: evaluate\n")
    (failed / "error.txt").write_text("Traceback\nRuntimeError: out of <memory> & time\n")
    return root


@pytest.fixture(scope="session")
def report(outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    return write_report(outputs, None, tmp_path_factory.mktemp("report"))


@pytest.fixture(autouse=True, scope="session")
def figures_are_drawn_here() -> Iterator[None]:
    """Processes that draw take longer to start than the few small figures of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "WORTH_IT", 1000)
        yield
