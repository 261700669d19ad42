"""What all libraries are given: a network, images, one file of maps, and this program's numbers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.evaluation.rows.format import kept_maps_folder, read_rows, read_scores
from saliency_lab.models.checkpoint import load_classifier
from saliency_lab.runs.directory import read_summary
from saliency_lab.training.components import data_module

STEPS = 16
SHARES = tuple(step / STEPS for step in range(STEPS + 1))
PERCENTAGES = tuple(range(10, 100, 10))
SEED = 42

_EVALUATORS = "deletion,relevance_gain,mu_fidelity,infidelity,sensitivity_n,complexity"
_MEASURES = (
    "evaluator.deletion.protocol=standard",
    "evaluator.deletion.modes=[deletion,insertion]",
    "evaluator.deletion.fills=[black,road]",
    f"evaluator.deletion.fractions=[{','.join(map(str, SHARES))}]",
    "evaluator.relevance_gain.fills=[road]",
    "evaluator.relevance_gain.segments=[pixels]",
    "evaluator.relevance_gain.fractions=[.1,.2,.3,.4,.5,.6,.7,.8,.9]",
)


class Line(NamedTuple):
    """One measure by this program and by a peer."""

    measure: str
    peer: str
    ours: float | None
    """Mean over the images; None where this program has no such measure."""

    theirs: float | None
    """The same as the peer gives it; None where it fails."""

    apart: float | None
    """Largest difference of an image, or of a mean where the peer gives no more."""

    repeated: float | None
    """Largest difference of the peer's number from its own definition, done by this program's
    arithmetic; None where there is nothing to explain."""

    cause: str
    """Of the difference."""


@dataclass(frozen=True)
class Given:
    """The network maps images in [0, 1] to logits; numbers are float32 on the CPU."""

    network: nn.Module
    images: Tensor
    maps: Tensor
    masks: Tensor | None
    ids: Sequence[str]
    logits: Tensor
    run: Path

    @property
    def targets(self) -> Tensor:
        return self.logits.argmax(1)

    def scores(self, evaluator: str, score: str, **condition: str) -> Tensor:
        """This program's scores of the file, float64 (N,)."""
        return self._ordered(read_scores(self.run, self._label(evaluator)), score, condition)

    def rows(self, evaluator: str, column: str, **condition: Any) -> Tensor:
        """A column of its rows, float64 (N,)."""
        return self._ordered(read_rows(self.run, self._label(evaluator)), column, condition)

    def streams(self, purpose: str) -> SampleGenerator:
        """The random numbers that an evaluator of the run had."""
        return SampleGenerator(SEED, [f"{purpose}/{name}" for name in self.ids])

    def probabilities(self, images: Tensor) -> Tensor:
        """Softmax of each image's target, float64 (N,)."""
        with torch.no_grad():
            found = self.network(images).double().softmax(1)
        return found.gather(1, self.targets[:, None])[:, 0]

    def target_logits(self, images: Tensor) -> Tensor:
        """Float64 (N,)."""
        with torch.no_grad():
            return self.network(images).double().gather(1, self.targets[:, None])[:, 0]

    def numpy(self) -> dict[str, NDArray[Any]]:
        """As Quantus takes them."""
        return {
            "x_batch": self.images.numpy().copy(),
            "y_batch": self.targets.numpy().copy(),
            "a_batch": self.maps[:, None].numpy().copy(),
        }

    def _label(self, evaluator: str) -> str:
        names = read_summary(self.run)["evaluators"]
        return next(name for name in names if name.partition("+")[0] == evaluator)

    def _ordered(self, table: pd.DataFrame, column: str, condition: dict[str, Any]) -> Tensor:
        for name, value in condition.items():
            table = table[table[name] == value]
        values = table.set_index("sample_id")[column]
        return torch.tensor([float(values[name]) for name in self.ids], dtype=torch.float64)


def given(checkpoint: Path, overrides: Sequence[str], images: int, folder: Path) -> Given:
    """Have the program write the file of maps, and measure it as if it came from elsewhere.

    Args:
        checkpoint: of a classifier of this program.
        overrides: what else the command `evaluate` needs, such as `data=… data.root=…`.
        images: how many of the test split.
        folder: where runs and the file lie.
    """
    common = [*overrides, f"ckpt={checkpoint}", f"data.limit={images}", f"seed={SEED}"]
    common += ["overwrite=true", "logger=none", "trainer.threads=1", "trainer.accelerator=cpu"]
    made = _evaluated(
        [*common, "method=gradient", "view=original", "maps=keep", "evaluator=[complexity]"],
        folder / "made",
    )
    blocks = [pq.read_table(path) for path in sorted(kept_maps_folder(made).glob("*.parquet"))]
    ids = [name for block in blocks for name in block["sample_id"].to_pylist()]
    flat = [row for block in blocks for row in block["original"].to_pylist()]
    config = yaml.safe_load((made / "config.yaml").read_text(encoding="utf-8"))
    data = data_module(config)
    _, height, width = data.input_shape
    np.save(folder / "maps.npy", np.asarray(flat, dtype=np.float32).reshape(-1, height, width))
    (folder / "ids.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    names = _EVALUATORS + (",localisation" if data.has_masks("test") else "")
    run = _evaluated(
        [*common, "method=file", f"method.maps={folder / 'maps.npy'}",
         f"method.ids={folder / 'ids.txt'}", f"evaluator=[{names}]", *_MEASURES],
        folder / "measured",
    )  # fmt: skip
    place = {name: row for row, name in enumerate(data.ids("test"))}
    places = [place[name] for name in ids]
    images = torch.from_numpy(data.images("test", places)).float() / 255
    masks = torch.from_numpy(data.masks("test", places)) if data.has_masks("test") else None
    network = load_classifier(checkpoint).eval()
    maps = torch.from_numpy(np.load(folder / "maps.npy"))
    with torch.no_grad():
        logits = network(images)
    return Given(network, images, maps, masks, ids, logits, run)


def _evaluated(words: Sequence[str], folder: Path) -> Path:
    command = [sys.executable, "-m", "saliency_lab", "evaluate", f"output_root={folder}", *words]
    subprocess.run(command, check=True)
    return next(folder.rglob("summary.json")).parent


def largest(first: Any, second: Any) -> float:
    """The largest absolute difference."""
    return float(np.abs(np.asarray(first, np.float64) - np.asarray(second, np.float64)).max())


Comparison = Callable[[Given], list[Line]]
