"""A copy of the checkout in which changes are made one at a time, and tests run on each."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from tests.mutants.changes import CHECKOUT, Change

# Imported once, before the processes that run the tests split off: most of a short test's time.
HEAVY = (
    "torch", "torchvision", "pytorch_lightning", "torchmetrics.classification", "timm", "captum",
    "pandas", "pyarrow.parquet", "scipy.stats", "skimage.segmentation", "hypothesis", "pytest",
)  # fmt: skip
FAILED, PASSED = 1, 0
# pytest's own codes: 2 is a module under test that cannot even be imported.
NOTICED = (FAILED, 2)


class Trial:
    """A copy of all files that git knows or would add, in a folder of its own.

    Args:
        folder: where the copy goes; it must not exist.
        seconds: after which tests that still run count as failed.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.root, self.seconds = folder, seconds
        listed = subprocess.run(
            ["git", "-C", str(CHECKOUT), "ls-files", "-co", "--exclude-standard", "-z"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        for name in filter(None, listed.split("\0")):
            if (CHECKOUT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(CHECKOUT / name, folder / name)

    def noticed(self, change: Change) -> bool:
        """Whether a test fails on the change; the copy is afterwards as it was."""
        path = self.root / change.file
        before = path.read_text(encoding="utf-8")
        path.write_text(change.made_in(before), encoding="utf-8")
        try:
            return self.code(change.tests) in NOTICED
        finally:
            path.write_text(before, encoding="utf-8")

    def code(self, tests: Sequence[str]) -> int:
        """pytest's exit code, or FAILED where it takes too long.

        Raises:
            RuntimeError: pytest could not run these tests at all; its words are in `said()`.
        """
        process = os.fork()
        if process == 0:
            self._run(tests)
        until = time.monotonic() + self.seconds
        while time.monotonic() < until:
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                if code not in (PASSED, *NOTICED):
                    raise RuntimeError(f"pytest ended with {code} for {tests}:\n{self.said()}")
                return code
            time.sleep(0.05)
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return FAILED

    def said(self) -> str:
        """What the last run printed, its end."""
        return (self.root / "said.txt").read_text(encoding="utf-8", errors="replace")[-3000:]

    def _run(self, tests: Sequence[str]) -> None:
        """In a process of its own: run the tests of the copy, and end."""
        os.setsid()
        os.chdir(self.root)
        sys.path[:] = [str(self.root), *(p for p in sys.path if p not in ("", str(CHECKOUT)))]
        # The tests are those of the copy, and so is this package.
        for name in [n for n in sys.modules if n.split(".")[0] in ("tests", "saliency_lab")]:
            del sys.modules[name]
        said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        code = import_module("pytest").main(["-x", "-q", "-p", "no:cacheprovider", *tests])
        sys.stdout.flush()
        os._exit(int(code))


def prepare() -> None:
    """Import what is heavy, and have no compiled file of a change outlive it."""
    os.environ.update(OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1", HF_HUB_OFFLINE="1")
    sys.dont_write_bytecode = True
    for name in HEAVY:
        import_module(name)
