"""A run directory: who holds it, how far it is, and what it was made from."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import psutil
import yaml

from saliency_lab.config.identity import conflicts
from saliency_lab.errors import UserError
from saliency_lab.runs.environment import environment
from saliency_lab.runs.files import write_json, write_text
from saliency_lab.runs.overwriting import (
    HOLDER,
    LOCK,
    clear,
    is_waiting,
    let_go,
    put_back,
    set_aside,
    stays,
)
from saliency_lab.runs.processes import SWEEP

log = logging.getLogger(__name__)

SUMMARY, CONFIG, ERROR = "summary.json", "config.yaml", "error.txt"
# A holder signs within milliseconds of taking the lock; a slow disk gets longer.
_SIGNING_SECONDS = 10.0


def read_summary(directory: Path) -> dict[str, Any]:
    """The run's summary; empty where there is none yet or where it is unreadable."""
    try:
        return dict(json.loads((directory / SUMMARY).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}


def read_config(directory: Path) -> dict[str, Any]:
    """What the run was made from; empty where it is not known or unreadable."""
    try:
        text = (directory / CONFIG).read_text(encoding="utf-8")
        # libyaml's loader, where there is one, takes a tenth of the time.
        stored = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return stored if isinstance(stored, dict) else {}


def is_finished(directory: Path) -> bool:
    """Whether the run there came to its end."""
    return read_summary(directory).get("status") == "finished"


def require_same_run(directory: Path, config: Mapping[str, Any]) -> None:
    """Refuse a directory whose run was made from another configuration.

    The directory's name holds what differs from the defaults; a default may have changed since.

    Raises:
        UserError: naming the keys and both values.
    """
    stored = read_config(directory)
    found = conflicts(config, stored) if stored else []
    if found:
        named = ", ".join(f"`{key}` is {old!r} there and {new!r} here" for key, old, new in found)
        raise UserError(
            f"Expected '{directory}' to be a run of this configuration, but {named}; "
            "choose another `output_root` or pass overwrite=true to start over"
        )


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Keep other processes out of a run directory; the lock falls with this process.

    A block that ends with an exception leaves word of it in `error.txt`.

    Raises:
        UserError: another process holds it; the message says which.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Expected `output_root` to be writable, but got '{directory}': {error.strerror}"
        ) from error
    lock = filelock.FileLock(directory / LOCK, timeout=0)
    try:
        _acquire(lock, directory)
    except OSError as error:
        raise UserError(
            f"Expected `output_root` to be writable, but got '{directory}': {error.strerror}"
        ) from error
    refused, waited = False, is_waiting(directory)
    try:
        _sign(directory)
        yield
    except Exception as error:
        if isinstance(error, UserError) and is_waiting(directory) and not waited:
            put_back(directory)
        if is_finished(directory) and not read_summary(directory).get("running"):
            pass  # what was refused has left it as it was
        elif (directory / CONFIG).exists():
            fail(directory, f"{type(error).__name__}: {error}")
        else:
            # Refused before it began: nothing of it is to stay.
            refused = True
        raise
    finally:
        (directory / HOLDER).unlink(missing_ok=True)
        # Last: without this file the next process can come in and sign.
        if refused:
            (directory / LOCK).unlink(missing_ok=True)
        lock.release()


def is_held(directory: Path) -> bool:
    """Whether a process is at work in a run directory, as far as can be seen from here.

    A killed process leaves its note behind; the lock tells, wherever the note is of this machine.
    """
    if not _holder(directory):
        return False
    # Asked only where there is a note: a lock that is tried could keep out a run that starts.
    lock = filelock.FileLock(directory / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        return True
    lock.release()
    return False


def remove(directory: Path, output_root: Path) -> None:
    """Delete a run directory and the folders above it that are empty then, below `output_root`.

    Raises:
        UserError: another process holds it, or it cannot be deleted.
    """
    lock = filelock.FileLock(directory / LOCK, timeout=0)
    try:
        lock.acquire()
        clear(directory)
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
    except filelock.Timeout as error:
        raise UserError(
            f"'{directory}' is in use by {_named(_holder(directory))}; stop it first"
        ) from error
    except OSError as error:
        raise UserError(
            f"Expected '{directory}' to be deletable, but got: {error.strerror}"
        ) from error
    finally:
        lock.release()
    remove_empty(directory.parent, output_root)


def remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder and those above it below `top`, up to the first that holds something."""
    for one in (folder, *folder.parents):
        if one == top or not one.is_relative_to(top):
            return
        try:
            one.rmdir()
        except FileNotFoundError:
            continue  # another process was faster
        except OSError:
            return


def _acquire(lock: filelock.FileLock, directory: Path) -> None:
    """Take the lock, or wait for it where a job of the same sweep has it."""
    deadline = time.monotonic() + _SIGNING_SECONDS
    while True:
        try:
            lock.acquire()
            return
        except filelock.Timeout as error:
            holder = _holder(directory)
            # Taken but not signed: its holder has just come, or is just leaving.
            if not holder and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            if holder.get("sweep") is None or holder["sweep"] != os.environ.get(SWEEP):
                raise UserError(
                    f"'{directory}' is in use by {_named(holder)}; wait for it to finish or stop "
                    "it first"
                ) from error
            break
    log.info("waiting for another job of this sweep to finish %s", directory)
    lock.acquire(timeout=-1)


def _sign(directory: Path) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    holder = {"pid": os.getpid(), "host": platform.node(), "since": since}
    write_json(directory / HOLDER, {**holder, "sweep": os.environ.get(SWEEP)})


def begin(directory: Path, config: Mapping[str, Any], *, overwrite: bool, **known: Any) -> None:
    """Prepare a held directory for a run: start anew, or go on.

    A finished run that is overwritten is deleted when the new one is finished, and comes back
    where the new one is refused before it has done anything.

    `known` is what the summary can say before the run has begun.

    Raises:
        UserError: what is there to be overwritten is no run.
    """
    if overwrite:
        _require_run(directory)
        set_aside(directory, finished=is_finished(directory))
    # What a killed process was writing; this one holds the directory, so nobody is at it now.
    for leftover in directory.rglob(".*.part*"):
        leftover.unlink()
    write_text(directory / CONFIG, yaml.safe_dump(dict(config), sort_keys=False))
    write_json(directory / "environment.json", environment(int(config["seed"])))
    (directory / ERROR).unlink(missing_ok=True)
    write_json(directory / SUMMARY, {"task": config["task"], "status": "running", **known})


def say_running(directory: Path, parts: Sequence[str]) -> None:
    """Note in the summary of a finished run that further parts of it are being made.

    The run stays finished: what it held before is whole, whatever becomes of the new parts.
    """
    for leftover in directory.rglob(".*.part*"):
        leftover.unlink()
    (directory / ERROR).unlink(missing_ok=True)
    write_json(directory / SUMMARY, {**read_summary(directory), "running": list(parts)})


@contextlib.contextmanager
def refusable(directory: Path) -> Iterator[None]:
    """A finished run stays as it was where further parts of it are refused."""
    config = (directory / CONFIG).read_text(encoding="utf-8")
    try:
        yield
    except UserError:
        write_text(directory / CONFIG, config)
        say_running(directory, ())
        raise


def finish(directory: Path, summary: Mapping[str, Any]) -> None:
    """Write the summary that says that the run is finished; the last file of every run."""
    write_json(directory / SUMMARY, {**summary, "status": "finished"})
    let_go(directory)


def fail(directory: Path, message: str) -> None:
    """Leave word of why a run failed, for the report."""
    # The disk may be full, which may be the very reason; the message was shown already.
    with contextlib.suppress(OSError, UserError):
        write_text(directory / ERROR, message + "\n")


def _require_run(directory: Path) -> None:
    """Refuse a folder of other files, which `hydra.run.dir` may name."""
    if "task" in read_config(directory) or is_waiting(directory):
        return
    others = sorted(path.name for path in directory.iterdir() if not stays(path))
    if others:
        raise UserError(
            f"Expected '{directory}' to be a run or empty where a run is overwritten, but it holds "
            f"'{others[0]}'; nothing was removed"
        )


def _holder(directory: Path) -> dict[str, Any]:
    """The holder's note; empty where there is none, or where a killed process left it behind."""
    try:
        holder = dict(json.loads((directory / HOLDER).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}
    if holder["host"] == platform.node() and not psutil.pid_exists(int(holder["pid"])):
        return {}
    return holder


def _named(holder: Mapping[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
