"""Weights & Biases beside the files of a run: online where possible, never in the way."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt

from saliency_lab.config.identity import leaves
from saliency_lab.errors import unknown_choice
from saliency_lab.runs.processes import process_rank

log = logging.getLogger(__name__)

# wandb's own words for its modes; the last two are older.
_MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")
_TAG_LENGTH = 64
_NAME_LENGTH = 128
_INNER_FAULTS = (
    ("wandb.sdk.lib.service.service_connection", "WandbApiFailedError"),
    ("wandb.sdk.lib.service.service_token", "WandbServiceConnectionError"),
    ("wandb.sdk.mailbox", "HandleAbandonedError"),
    ("wandb.sdk.mailbox", "MailboxClosedError"),
)


@dataclass
class Record:
    """A wandb run, which may be lost on the way without harm to the job.

    `lost`: wandb's process or server has failed; nothing more is handed to it.
    """

    run: Any
    lost: bool = False
    faults: tuple[type[Exception], ...] = field(default_factory=lambda: wandb_faults())

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Turn wandb's failures inside the block into one warning and a lost record."""
        try:
            yield
        except self.faults as error:
            self.lost = True
            log.warning("W&B failed (%s); continuing without recording to it", _line(error))


@dataclass(frozen=True)
class Tracking:
    """Where and under what name runs are recorded."""

    mode: Literal["auto", "online", "offline", "disabled"]
    project: str
    entity: str | None
    group: str | None
    tags: tuple[str, ...]
    timeout: float
    upload_timeout: float

    @contextlib.contextmanager
    def run(self, config: Mapping[str, Any], directory: Path) -> Iterator[Record | None]:
        """A wandb run for the length of a job; None where nothing is recorded.

        A server that cannot be reached means an offline record, said in one line; wandb dying on
        the way does not stop the job.

        Raises:
            UserError: $WANDB_MODE is none of wandb's modes.
        """
        disabled = self.mode == "auto" and os.environ.get("WANDB_MODE") == "disabled"
        if disabled or self.mode == "disabled" or process_rank() > 0:
            yield None
            return
        if (said := os.environ.get("WANDB_MODE") or "online") not in _MODES:
            raise unknown_choice("$WANDB_MODE", said, _MODES)
        with _data_inside(directory / "wandb"):
            record = self._begun(config, directory)
            try:
                yield record
            finally:
                if record is not None:
                    _finished(record)

    def _begun(self, config: Mapping[str, Any], directory: Path) -> Record | None:
        import wandb

        faults = wandb_faults()
        attempts: list[Literal["online", "offline"]] = ["offline"]
        if self._online_wanted() and self._logged_in(faults):
            attempts = ["online", "offline"]
        for attempt in attempts:
            settings = wandb.Settings(
                init_timeout=self.timeout,
                finish_timeout=self.upload_timeout,
                silent=True,
                console="off",
            )
            try:
                (directory / "wandb").mkdir(parents=True, exist_ok=True)
                run = wandb.init(mode=attempt, settings=settings, **self._labels(config, directory))
            except faults as error:
                log.warning("W&B %s: %s", attempt, _line(error))
            else:
                return Record(run, faults=faults)
        return None

    def _online_wanted(self) -> bool:
        """What `mode` says; `auto` leaves it to wandb's own variable where that is set."""
        said = os.environ.get("WANDB_MODE", "online") if self.mode == "auto" else self.mode
        return said == "online"

    def _logged_in(self, faults: tuple[type[Exception], ...]) -> bool:
        """Whether wandb has a key that its server accepts; never asks on a terminal."""
        import wandb

        try:
            if self.mode == "online":
                # wandb checks no key while $WANDB_MODE or `wandb offline` says offline.
                wandb.setup(wandb.Settings(mode="online"))
            if wandb.login(prompt=False):
                return True
        except faults as error:
            log.warning("W&B records offline: %s", _line(error))
            return False
        if self.mode == "online":
            log.warning("W&B records offline: no API key; `wandb login` stores one")
        return False

    def _labels(self, config: Mapping[str, Any], directory: Path) -> dict[str, Any]:
        """What W&B groups, filters and names runs by."""
        names = [config[key]["name"] for key in ("data", "model", "method") if key in config]
        return {
            "project": self.project,
            "entity": self.entity,
            "group": self.group or "/".join(names[:2]) or config["task"],
            "job_type": config["task"],
            "name": f"{directory.parent.name}/{directory.name}"[:_NAME_LENGTH],
            "tags": [tag[:_TAG_LENGTH] for tag in dict.fromkeys([*names, *self.tags])],
            # Dotted keys such as `model.name`, which W&B's tables group and filter by.
            "config": leaves(config),
            "dir": str(directory),
        }


def tracking(
    *,
    mode: Literal["auto", "online", "offline", "disabled"] = "auto",
    project: str = "saliency_lab",
    entity: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    timeout: Annotated[float, Gt(0)] = 10,
    upload_timeout: Annotated[float, Gt(0)] = 300,
) -> Tracking:
    """The settings of the `logger` group.

    Args:
        mode: `auto` is online where this machine is logged in, else offline; WANDB_MODE counts.
        group: runs that W&B shows as one comparison; None: `data/model`.
        timeout: seconds until a server that does not answer means offline.
        upload_timeout: seconds that a job's end waits for its upload; the rest stays on disk for
            `wandb sync`.
    """
    return Tracking(mode, project, entity, group, tuple(tags), timeout, upload_timeout)


def wandb_faults() -> tuple[type[Exception], ...]:
    """What wandb raises when its server, its own process or its files fail."""
    import wandb

    # Its process is behind a socket: when it dies, that is a ConnectionError, hence an OSError.
    found: list[type[Exception]] = [wandb.Error, OSError]
    for module, name in _INNER_FAULTS:
        # They are no part of its public face, and another version may have none of them.
        with contextlib.suppress(ImportError, AttributeError):
            found.append(getattr(importlib.import_module(module), name))
    return tuple(found)


def _finished(record: Record) -> None:
    import wandb

    if not record.lost:
        with record.kept():
            record.run.finish()
    if record.lost:
        # The next job of a sweep needs a process of wandb's that lives, and this one's exit hook
        # would complain.
        with contextlib.suppress(*record.faults):
            wandb.teardown()


@contextlib.contextmanager
def _data_inside(folder: Path) -> Iterator[None]:
    """Keep wandb's copies of artifacts beside its record, not in the home directory.

    An offline record needs them until it is synced, and a new start of the run removes both.
    """
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder.absolute())
    try:
        yield
    finally:
        os.environ.pop("WANDB_DATA_DIR", None)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
