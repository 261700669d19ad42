"""Exceptions of Hydra, OmegaConf and the tasks, told as one line where the user can mend them."""

from __future__ import annotations

import itertools
import re
import shlex
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from saliency_lab.config.location import config_directory
from saliency_lab.errors import UserError, unknown_choice, unknown_key


def one_line(error: BaseException, task: str, arguments: list[str]) -> str | None:
    """What to tell the user in one line, or None where the fault is the program's."""
    mistake = _mistake_behind(error)
    if mistake is not None:
        return " ".join(str(mistake).split())
    if isinstance(error, OSError) and error.filename is not None and not _inside_a_task(error):
        # All that is written before a task starts is its run directory.
        return (
            f"Expected `output_root` to be writable, but got '{error.filename}': {error.strerror}"
        )
    if isinstance(error, MissingConfigException):
        return _missing_config(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(str(error.override))
    cause = error.__cause__
    if isinstance(error, ConfigCompositionException) and cause is not None:
        if isinstance(cause, ConfigKeyError | ConfigAttributeError):
            return str(_unknown(str(cause.full_key), task, arguments))
        if isinstance(cause, ValidationError):
            return _wrong_type(cause)
        return f"{_first_line(error)}: {_first_line(cause)}"
    if isinstance(error, MissingMandatoryValue):
        return f"Expected `{error.full_key}` to be given, but it is missing"
    if isinstance(error, ValidationError):
        return _wrong_type(error)
    ambiguous = re.match(r"Ambiguous value for argument '(.*)'$", _first_line(error))
    if isinstance(error, HydraException) and ambiguous:
        return f"{_unreadable(ambiguous[1])}; several jobs want -m"
    unknown = re.match(r"Could not override '([^'@]*)'\. No match", _first_line(error))
    if isinstance(error, HydraException) and unknown:
        return str(_unknown(unknown[1], task, arguments))
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _first_line(error)
    if isinstance(error, yaml.YAMLError):
        return f"Cannot read a configuration file: {error}".replace("\n", " ")
    if _is_grammar(error):
        return _first_line(error)
    return None


def _mistake_behind(error: BaseException | None) -> UserError | None:
    """The user's mistake that Hydra or OmegaConf has wrapped, if there is one."""
    while error is not None and not isinstance(error, UserError):
        error = (
            error.__cause__ if isinstance(error, HydraException | OmegaConfBaseException) else None
        )
    return error


def _modules(error: BaseException) -> list[str]:
    """The modules that the exception has come through, outermost first."""
    frames = traceback.walk_tb(error.__traceback__)
    return [str(frame.f_globals.get("__name__", "")) for frame, _ in frames]


def _inside_a_task(error: BaseException) -> bool:
    return any(module.startswith("saliency_lab.tasks.") for module in _modules(error))


def _is_grammar(error: BaseException) -> bool:
    """Whether Hydra refused the command line with a bare ValueError of its own."""
    return isinstance(error, ValueError) and _modules(error)[-1].startswith("hydra.")


def _unreadable(override: str) -> str:
    """How to write an override that Hydra's grammar refused."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"Expected settings as KEY=VALUE, but got '{override}'"
    if value.startswith("[") and value.endswith("]"):
        texts = ",".join(_quoted(one) for one in value[1:-1].split(","))
        hint = shlex.quote(f"{key}=[{texts}]")
        return f"Cannot read the override '{override}': write a list of texts as {hint}"
    hint = shlex.quote(f"{key}={_quoted(value)}")
    return (
        f"Cannot read the override '{override}': write a text with commas, spaces, brackets or = "
        f"as {hint}, a list as KEY=[a,b], a mapping as 'KEY={{a: b}}'"
    )


def _quoted(text: str) -> str:
    """A text as Hydra's grammar takes it, whatever is in it."""
    inside = text.strip().strip("'\"").replace('"', '\\"')
    return f'"{inside}"'


def _missing_config(error: MissingConfigException) -> str:
    name, options = error.missing_cfg_file, error.options
    if name is not None and options is None and "/" in name:
        # One of a list of choices: Hydra does not say what there is.
        folder = config_directory() / name.rpartition("/")[0]
        options = [path.stem for path in folder.glob("*.yaml")]
    if name is None or options is None:
        return _first_line(error)
    group, _, choice = name.rpartition("/")
    if (folder := config_directory() / group).is_dir() and group.startswith("experiment/"):
        # Hydra lists what lies beside the folder.
        options = [path.stem for path in folder.glob("*.yaml")]
    plugin = choice.partition("_")[0]
    if group == "hydra/launcher" and plugin in ("joblib", "submitit"):
        return (
            f"Expected the launcher of `hydra/launcher={choice}` to be installed, but it is not: "
            f"pip install 'saliency-lab[launchers]' (or hydra-{plugin}-launcher)"
        )
    if (group, choice) == ("hydra/sweeper", "optuna"):
        return (
            "Expected the sweeper of `hydra/sweeper=optuna` to be installed, but it is not: "
            "pip install 'saliency-lab[launchers]' (or hydra-optuna-sweeper)"
        )
    return str(unknown_choice(group or "config", choice, sorted(options)))


_KINDS = {"Integer": "an integer", "Float": "a number", "bool": "true or false"}
_NO_SUCH_VALUE = re.compile(
    r"Value '(?P<value>.*)' (?:of type '.*' could not be converted to|is not a valid) (?P<kind>\w+)"
)


def _wrong_type(error: OmegaConfBaseException) -> str:
    match = _NO_SUCH_VALUE.match(str(error))
    if match is None and "is not a ListConfig" in str(error):
        return f"Expected `{error.full_key}` to be a list, such as {error.full_key}=[…]"
    if match is None:
        return f"Wrong value for `{error.full_key}`: {_first_line(error)}"
    kind = _KINDS.get(match["kind"], f"of type {match['kind']}")
    return f"Expected `{error.full_key}` to be {kind}, but got '{match['value']}'"


# Jobs of a sweep that are composed, each in a tenth of a second, to say which lacks a key.
_COMPOSED = 30


def _unknown(key: str, task: str, arguments: list[str]) -> UserError:
    """The error for an unknown key, with the keys that stand where it was given.

    Where other jobs of a sweep have it, the error names the first that has not: Hydra begins none
    until it has composed all.
    """
    lacks: list[tuple[str, UserError]] = []
    count, node = 0, None
    for swept, node in itertools.islice(_compositions(task, arguments), _COMPOSED):
        count += 1
        error = _missing_part(key, node)
        if error is not None:
            lacks.append((" ".join(swept), error))
    if not lacks:
        return unknown_key(key, [] if node is None else list(node))
    job, error = lacks[0]
    if len(lacks) == count or not job:
        return error
    return UserError(f"{error} That is with {job}; no job of the sweep was begun.")


def _missing_part(key: str, node: Any) -> UserError | None:
    """The error for the first part of a dotted path that a configuration lacks, if it lacks one."""
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, Mapping | DictConfig) or part not in node:
            options = list(node) if isinstance(node, Mapping | DictConfig) else []
            return unknown_key(".".join(parts[: depth + 1]), [o for o in options if o != "hydra"])
        node = OmegaConf.select(node, part) if isinstance(node, DictConfig) else node[part]
    return None


def _compositions(task: str, arguments: list[str]) -> Iterator[tuple[list[str], DictConfig]]:
    """Configurations with the group choices of the command line and no values changed.

    One for each combination of swept choices, beside these choices, which are none without a sweep.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    words = [word for word in arguments if "=" in word and not word.startswith("-")]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        parser = OverridesParser.create(config_loader=loader)
        chosen: list[str] = []
        swept: list[list[str]] = []
        for word, override in zip(words, parser.parse_overrides(words), strict=True):
            key = override.key_or_group
            if "." not in key and loader.list_groups(key) == [] and loader.get_group_options(key):
                if override.is_sweep_override():
                    swept.append([f"{key}={one}" for one in override.sweep_string_iterator()])
                else:
                    chosen.append(word)
        for job in itertools.product(*swept):
            try:
                yield list(job), compose(task, overrides=[*chosen, *job])
            except HydraException:
                yield [], compose(task)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    # OmegaConf puts these words before whatever a resolver of ours says.
    return re.sub(r"^\w+ raised while resolving interpolation: ", "", text.splitlines()[0])
