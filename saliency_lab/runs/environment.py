"""Where and with what a run was made: the content of `environment.json`."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from saliency_lab import __version__

PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "timm",
    "captum",
    "hydra-core",
    "omegaconf",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "wandb",
)


def environment(seed: int) -> dict[str, Any]:
    """Versions, commit, hardware, command and seed, as plain containers."""
    import torch  # heavy, and loaded already wherever a run is made

    commit, dirty = _commit()
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(sys.argv),
        "seed": seed,
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "versions": {"saliency-lab": __version__} | {name: _version(name) for name in PACKAGES},
    }


# Added to the words of a job for the processes that it is made of.
_ADDED = ("hydra.mode=RUN", "hydra.run.dir=")


def _command(argv: list[str]) -> str:
    """What to type for this run, ready for a shell."""
    program = Path(argv[0]).name
    start = ["python", "-m", "saliency_lab"] if program == "__main__.py" else [program]
    return shlex.join([*start, *(word for word in argv[1:] if not word.startswith(_ADDED))])


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> tuple[str | None, bool | None]:
    """The commit of the checkout that this package is run from, and whether it was changed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None, None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
