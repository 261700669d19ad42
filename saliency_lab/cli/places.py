"""Where a job's files lie, as the configuration that Hydra is composing says."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from saliency_lab.cli import roots
from saliency_lab.cli.sweep import sweep_directory
from saliency_lab.config.content import component_source
from saliency_lab.config.identity import (
    NUMBERS,
    evaluator_label,
    run_directory,
    with_text_names,
)
from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.training.lookup import classifier_of

# Choices that say how a run happens, or that are no more than a bundle of other choices: a value
# of theirs that matters shows among the values that differ from the defaults.
_NO_CHOICE = ("experiment", "trainer", "logger", "evaluator")
# Choices that the path itself names.
_IN_PATH = ("data", "model", "method", "view")
# Keys that are themselves computed from the rest.
_COMPUTED = ("hydra", "classifier", "labels", "methods", "sources")
# Groups whose components may lie outside of this package and decide numbers.
_COMPONENTS = ("data", "model", "optimizer", "scheduler", "callback", "method")


def register_resolvers() -> None:
    """Make the resolvers of conf/ known to OmegaConf."""
    for name, place in (
        ("run_directory", _run_directory),
        ("classifier", _classifier),
        ("evaluator_labels", _labels),
        ("compared_methods", _compared),
        ("component_sources", _sources),
        ("sweep_directory", _sweep_directory),
    ):
        # `_root_` is the name by which OmegaConf hands the configuration over.
        OmegaConf.register_new_resolver(
            name, lambda _root_, place=place: place(_root_), replace=True
        )


def _sweep_directory(root: DictConfig) -> str:
    roots.meet(root.output_root)
    return sweep_directory(root.output_root)


def _run_directory(root: DictConfig) -> str:
    """The absolute run directory."""
    if not str(root.output_root).strip():
        raise UserError("Expected `output_root` to name a folder, but got an empty string")
    roots.meet(root.output_root)
    config = {**_plain(root), "sources": _sources(root)}
    if "classifier" in root:
        config["classifier"] = _classifier(root)
        # The checkpoint is the truth about its model, whatever `model` was left at.
        config["model"] = config["classifier"]["model"]
    if "methods" in root:
        config["labels"] = _labels(root)
    directory = run_directory(config, _defaults(root), _chosen(root))
    return str((Path(config["output_root"]) / directory).absolute())


def _classifier(root: DictConfig) -> dict[str, Any]:
    """The checkpoint that an evaluation is about, or why there is none: the task refuses then.

    A configuration can be looked at before its classifier is trained.
    """
    plain = _plain(root)
    try:
        return classifier_of(plain, given_keys(_hydra(root)))
    except UserError as error:
        return {"error": str(error), "sha256": "none", "model": plain["model"]}


def given_keys(hydra: Any) -> frozenset[str]:
    """The keys and groups that the command line sets, an experiment's included."""
    words = [str(word) for word in hydra.overrides.task]
    keys = {word.lstrip("+~").partition("=")[0] for word in words}
    return frozenset(keys | ({"model"} if "experiment" in keys else set()))


def _labels(root: DictConfig) -> dict[str, str]:
    """What each evaluator's files are called."""
    mine, usual = _plain(root)["evaluator"], _defaults(root).get("evaluator", {})
    return {
        name: evaluator_label(name, component, usual.get(name, {}), component_source(component))
        for name, component in mine.items()
        if isinstance(component, dict)
    }


def _compared(root: DictConfig) -> dict[str, Any]:
    """The method and view that each name of a comparison means: METHOD or METHOD/VIEW."""
    found = {}
    for side, names in (("a", root.a), ("b", root.b)):
        if not isinstance(names, str | ListConfig):
            raise UserError(f"Expected `{side}` to name a map, or a list of maps, but got {names}")
        for name in [names] if isinstance(names, str) else names:
            method, _, view = str(name).partition("/")
            words = (f"method={method}", *([f"view={view}"] if view else []))
            try:
                composed = _plain(_composed(root, words, "evaluate"))
            except MissingConfigException as error:
                key = f"{side}: a view" if "view" in str(error.missing_cfg_file) else side
                raise unknown_choice(key, str(name), error.options or ()) from error
            found[str(name)] = {key: composed[key] for key in ("method", "view")}
    return found


def _sources(root: DictConfig) -> dict[str, Any]:
    """What decides the numbers and is no setting: texts outside this package, named files."""
    plain = _plain(root)
    found = {
        group: source
        for group in _COMPONENTS
        if isinstance(plain.get(group), dict)
        and not ("classifier" in root and group in ("model", *_OF_TRAINING))
        and (source := component_source(plain[group])) is not None
    }
    return found if plain.get("task") == "train" else {**found, "numbers": NUMBERS}


def _defaults(root: DictConfig) -> dict[str, Any]:
    """The same group choices with no value changed but the seed."""
    defaults = _composed(root, tuple(_words(root)))
    # The seed fills in other keys by interpolation; only its own value tells runs apart.
    defaults = defaults.copy()
    OmegaConf.set_struct(defaults, False)
    defaults.seed = root.seed
    return _plain(defaults)


def _chosen(root: DictConfig) -> dict[str, str]:
    """The group choices that are not the task's usual ones and that the path does not name."""
    usual = _choices(_composed(root, ()))
    chosen = {
        group: str(choice)
        for group, choice in _choices(root).items()
        if group not in (*_IN_PATH, *_NO_CHOICE) and usual.get(group) != choice
    }
    if "classifier" in root:
        chosen = {key: value for key, value in chosen.items() if key not in _OF_TRAINING}
    # A person's own file may go by another name than the data set that it is a form of.
    choice = _hydra(root).runtime.choices.get("data")
    if "data" in root and root.data.get("name") != choice:
        chosen["data"] = str(choice)
    return chosen


_OF_TRAINING = ("optimizer", "scheduler", "callback")


def _choices(root: DictConfig) -> dict[str, Any]:
    return {
        str(group): choice
        for group, choice in _hydra(root).runtime.choices.items()
        if choice is not None and "/" not in str(group) and "@" not in str(group)
    }


def _words(root: DictConfig) -> Iterator[str]:
    for group, choice in _choices(root).items():
        if group not in ("experiment", "trainer", "logger", "evaluator"):
            yield f"{group}={choice}"
    if "evaluator" in root:
        # Several choices of one group are not among Hydra's; each has a section of its name.
        known = GlobalHydra.instance().config_loader().get_group_options("evaluator")
        names = [str(name) for name in root.evaluator if name in known]
        yield f"evaluator=[{','.join(names)}]"


def _composed(root: DictConfig, overrides: tuple[str, ...], name: str | None = None) -> DictConfig:
    """A configuration of the same task, or of another, composed once for the same words."""
    loader = GlobalHydra.instance().config_loader()
    search = tuple(str(entry) for entry in loader.get_search_path().get_path())
    return _compose(name or _hydra(root).job.config_name, overrides, search)


@functools.lru_cache(maxsize=64)
def _compose(name: str, overrides: tuple[str, ...], search: tuple[str, ...]) -> DictConfig:
    loader = GlobalHydra.instance().config_loader()
    return loader.load_configuration(
        config_name=name, overrides=list(overrides), run_mode=RunMode.RUN
    )


def _hydra(root: DictConfig) -> Any:
    """Hydra's own part: in the tree while Hydra composes it, kept apart inside the job."""
    return root.hydra if "hydra" in root else HydraConfig.get()


def _plain(config: DictConfig) -> dict[str, Any]:
    """Plain containers without what is itself computed from them."""
    kept = [str(key) for key in config if key not in _COMPUTED]
    plain = OmegaConf.to_container(OmegaConf.masked_copy(config, kept), resolve=True)
    if not isinstance(plain, dict):
        return {}
    return with_text_names({str(key): value for key, value in plain.items()})
