"""Weights & Biases beside the files of a run: online where possible, never in the way."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt

from saliency_lab.runs.processes import process_rank

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tracking:
    """Where and under what name runs are recorded."""

    mode: Literal["auto", "online", "offline", "disabled"]
    project: str
    entity: str | None
    group: str | None
    tags: tuple[str, ...]
    timeout: float

    @contextlib.contextmanager
    def run(self, config: Mapping[str, Any], directory: Path) -> Iterator[Any | None]:
        """A wandb run for the length of a job; None where nothing is recorded.

        A server that cannot be reached means an offline record, said in one line; wandb dying on
        the way does not stop the job.
        """
        if self.mode == "disabled" or process_rank() > 0:
            yield None
            return
        record = self._begun(config, directory)
        try:
            yield record
        finally:
            if record is not None:
                _finished(record)

    def _begun(self, config: Mapping[str, Any], directory: Path) -> Any | None:
        import wandb

        attempts: list[Literal["online", "offline"]] = ["offline"]
        # Never on a terminal's prompt: answers at once whether a key is there.
        if self.mode != "offline" and wandb.login(prompt=False):
            attempts = ["online", "offline"]
        data, model = config["data"]["name"], config["model"]["name"]
        place = directory / "wandb"
        place.mkdir(parents=True, exist_ok=True)
        settings: dict[str, Any] = {
            "project": self.project,
            "entity": self.entity,
            "group": self.group or f"{data}/{model}",
            "job_type": config["task"],
            "name": f"{directory.parent.name}/{directory.name}"[:128],
            "tags": [data, model, *self.tags],
            "config": _flat(config),
            "dir": str(directory),
        }
        for attempt in attempts:
            try:
                return wandb.init(
                    mode=attempt,
                    settings=wandb.Settings(init_timeout=self.timeout, silent=True, console="off"),
                    **settings,
                )
            except (wandb.errors.Error, OSError) as error:
                log.warning("W&B %s: %s", attempt, str(error).splitlines()[0])
        return None


def tracking(
    *,
    mode: Literal["auto", "online", "offline", "disabled"] = "auto",
    project: str = "saliency_lab",
    entity: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    timeout: Annotated[float, Gt(0)] = 10,
) -> Tracking:
    """The settings of the `logger` group.

    Args:
        mode: `auto` is online where this machine is logged in, else offline.
        group: runs that W&B shows as one comparison; None: `data/model`.
        timeout: seconds until a server that does not answer means offline.
    """
    return Tracking(mode, project, entity, group, tuple(tags), timeout)


def _finished(record: Any) -> None:
    import wandb

    try:
        record.finish()
    except (wandb.errors.Error, OSError) as error:
        log.warning("W&B did not finish its record: %s", error)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`model.name`-like keys, which W&B's tables group and filter by."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{name}."))
        else:
            flat[name] = value
    return flat
