"""The typed root schema of every task's configuration. Free of torch: `--cfg job` stays fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

# Components are mappings with a `_target_`; their keys and types are held against the signature
# they name (saliency_lab.config.binding), so the schema only says that they are mappings.
Component = dict[str, Any]


def _named(group: str) -> Component:
    """A component that goes by its file's name unless it has a `name` of its own."""
    # An interpolation of Hydra's, because only the composed configuration knows the choice.
    return {"name": f"${{hydra:runtime.choices.{group}}}"}


@dataclass
class RunConfig:
    """What every task has."""

    task: str = MISSING
    output_root: str = "outputs"
    overwrite: bool = False
    seed: int = 42


@dataclass
class TrainConfig(RunConfig):
    """What decides a trained classifier."""

    data: Component = field(default_factory=partial(_named, "data"))
    model: Component = field(default_factory=partial(_named, "model"))
    optimizer: Component = MISSING
    scheduler: Component = MISSING
    trainer: Component = MISSING
    # One callback of a training, or several by name.
    callback: Component = field(default_factory=dict)
    logger: Component = MISSING
    # Computed: what decides the numbers beside the settings.
    sources: dict[str, Any] = MISSING


@dataclass
class TrainTaskConfig(TrainConfig):
    """Training it, maybe from where a shorter training ended."""

    continues: str | None = None


@dataclass
class MapsConfig(TrainConfig):
    """A trained classifier and an attribution method."""

    run: str | None = None
    ckpt: str | None = None
    method: Component = field(default_factory=partial(_named, "method"))
    view: Component = MISSING
    engine: Component = MISSING
    # Computed: the checkpoint that is meant.
    classifier: dict[str, Any] = MISSING


@dataclass
class EvaluateConfig(MapsConfig):
    """How the maps are measured, and on which images."""

    evaluator: dict[str, Any] = MISSING
    split: str = "test"
    maps: str = "discard"
    examples: int = 50
    on_nonfinite: str = "error"
    resamples: int = 1000
    block_size: int | None = None
    # Computed: what each evaluator's files are called.
    labels: dict[str, str] = MISSING


@dataclass
class CompareConfig(TrainConfig):
    """Two maps of the same images, the score that decides, and when to stop."""

    # A name, or a list of them.
    a: Any = MISSING
    b: Any = MISSING
    run: str | None = None
    ckpt: str | None = None
    engine: Component = MISSING
    evaluator: dict[str, Any] = MISSING
    split: str = "test"
    condition: list[Any] = field(default_factory=list)
    alpha: float = 0.05
    tolerance: float = 0.0
    least: int = 0
    kind: str = "betting"
    correction: str = "bonferroni"
    block_size: int | None = None
    # Computed: the method and view of each name, the checkpoint, the evaluator's file.
    methods: dict[str, Any] = MISSING
    classifier: dict[str, Any] = MISSING
    labels: dict[str, str] = MISSING


@dataclass
class ExplainConfig(MapsConfig):
    """Maps to look at: of test images of each class, or of a person's own files."""

    # One path, or a list of them.
    images: Any = field(default_factory=list)
    # One class, or a list of them.
    target: Any = None
    overlay: bool = False
    per_class: int = 1


@dataclass
class ReportConfig(RunConfig):
    """Which runs the page shows, and where it goes."""

    runs: list[str] | None = None
    destination: str | None = None
    curves_over: str = "fraction"
    wandb: bool = False
    logger: Component = MISSING


@dataclass
class ReproduceConfig(RunConfig):
    """Which part of a paper's experiment is run, and where its results go."""

    paper: str = "llorente2023"
    columns: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [42])
    splits: list[str] = field(default_factory=lambda: ["test", "train"])
    grids: bool = True
    beyond: bool = False
    root: str | None = None
    overrides: list[str] = field(default_factory=list)
    evaluation: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    run: bool = True
    publish: str | None = None


SCHEMAS = {
    "train": TrainTaskConfig,
    "evaluate": EvaluateConfig,
    "compare": CompareConfig,
    "explain": ExplainConfig,
    "report": ReportConfig,
    "reproduce": ReproduceConfig,
}


def register_schemas() -> None:
    """Put the schemas where the task yamls' defaults lists find them."""
    store = ConfigStore.instance()
    for task, schema in SCHEMAS.items():
        # Not inside a config group: there it would become a job of `group=glob(*)`.
        store.store(name=f"{task}_schema", node=schema, provider="saliency_lab")
