"""Where a job's files lie, as the configuration that Hydra is composing says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from saliency_lab.cli.sweep import sweep_directory
from saliency_lab.config.identity import run_directory, training_config

# Choices that say how a run happens, or that are no more than a bundle of other choices: a value
# of theirs that matters shows among the values that differ from the defaults.
_NO_CHOICE = ("experiment", "trainer", "logger")
# Choices that the path itself names.
_IN_PATH = ("data", "model", "method", "view")


def register_resolvers() -> None:
    """Make the resolvers of conf/ known to OmegaConf."""
    for name, place in (
        ("run_directory", _run_directory),
        ("training_directories", _training_directories),
        ("sweep_directory", lambda root: sweep_directory(root.output_root)),
    ):
        # `_root_` is the name by which OmegaConf hands the configuration over.
        OmegaConf.register_new_resolver(
            name, lambda _root_, place=place: place(_root_), replace=True
        )


def _run_directory(root: DictConfig) -> str:
    """The absolute run directory."""
    return _placed(_plain(root), _defaults(root), _chosen(root))


def _training_directories(root: DictConfig) -> list[str]:
    """Where the training run that an evaluation is about may lie: first with the same
    `data.limit`, then without one, since an evaluation of a few images is mostly about a
    classifier that was trained on all of them.
    """
    config, defaults = training_config(_plain(root)), training_config(_defaults(root))
    chosen = {group: choice for group, choice in _chosen(root).items() if group in config}
    found = [_placed({**config, "output_root": root.output_root}, defaults, chosen)]
    if config["data"].get("limit") is not None:
        config["data"] = {**config["data"], "limit": None}
        found.append(_placed({**config, "output_root": root.output_root}, defaults, chosen))
    return found


def _placed(config: dict[str, Any], defaults: dict[str, Any], chosen: dict[str, str]) -> str:
    return str((Path(config["output_root"]) / run_directory(config, defaults, chosen)).absolute())


def _defaults(root: DictConfig) -> dict[str, Any]:
    """The same group choices with no value changed but the seed."""
    overrides = [f"{group}={choice}" for group, choice in _choices(root).items()]
    defaults = _composed(root, overrides)
    # The seed fills in other keys by interpolation; only its own value tells runs apart.
    OmegaConf.set_struct(defaults, False)
    defaults.seed = root.seed
    return _plain(defaults)


def _chosen(root: DictConfig) -> dict[str, str]:
    """The group choices that are not the task's usual ones and that the path does not name."""
    usual = _choices(_composed(root, []))
    chosen = {
        group: choice
        for group, choice in _choices(root).items()
        if group not in _IN_PATH and usual.get(group) != choice
    }
    # A person's own file may go by another name than the data set that it is a form of.
    if "data" in root and root.data.get("name") != _hydra(root).runtime.choices.get("data"):
        chosen["data"] = str(_hydra(root).runtime.choices.get("data"))
    return chosen


def _choices(root: DictConfig) -> dict[str, str]:
    return {
        group: choice
        for group, choice in _hydra(root).runtime.choices.items()
        if choice is not None and group not in _NO_CHOICE and "/" not in group and "@" not in group
    }


def _composed(root: DictConfig, overrides: list[str]) -> DictConfig:
    return (
        GlobalHydra.instance()
        .config_loader()
        .load_configuration(
            config_name=_hydra(root).job.config_name, overrides=overrides, run_mode=RunMode.RUN
        )
    )


def _hydra(root: DictConfig) -> Any:
    """Hydra's own part: in the tree while Hydra composes it, kept apart inside the job."""
    return root.hydra if "hydra" in root else HydraConfig.get()


def _plain(config: DictConfig) -> dict[str, Any]:
    """Plain containers without what is itself computed from them."""
    kept = [str(key) for key in config if key not in ("hydra", "training")]
    plain = OmegaConf.to_container(OmegaConf.masked_copy(config, kept), resolve=True)
    return {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {}
