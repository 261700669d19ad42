"""What all tests share: no network, no prompts, a cache and a working directory of their own."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# One thread for each of xdist's processes: threads that wait for a core of each other's spin.
os.environ.update(
    HF_HUB_OFFLINE="1",
    WANDB_MODE="offline",
    WANDB_SILENT="true",
    MPLBACKEND="Agg",
    COLUMNS="200",
    OMP_NUM_THREADS="1",
)

CHECKOUT = Path(__file__).resolve().parents[1]
# Whatever package is installed: processes that tests start run the code beside these tests.
os.environ["PYTHONPATH"] = str(CHECKOUT)

# Generated inputs are the same in every run; a run writes nothing into the checkout.
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, database=None, deadline=None, max_examples=60
)
hypothesis.settings.load_profile("repeatable")

# Python runs this file at the start of every process; it notes which package was run.
NOTING = """
import atexit, os, pathlib, sys

def note():
    if "saliency_lab" in sys.modules:
        path = pathlib.Path({folder!r}, str(os.getpid()))
        path.write_text(sys.modules["saliency_lab"].__file__)

atexit.register(note)
"""


@dataclass(frozen=True)
class Outcome:
    """What a command printed and its exit code."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


def _heed_ctrl_c() -> None:
    """Tests that run in the background of a shell are deaf to Ctrl-C; what they start is not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Started:
    """A command that runs in a process of its own."""

    process: subprocess.Popen[bytes]
    printed: Path

    def read(self) -> str:
        """What it has printed so far, to either stream."""
        return self.printed.read_text()

    def wait_for(self, condition: Callable[[], Any], seconds: float = 120) -> None:
        """Until the condition holds; a process that ends before is an error."""
        until = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.read()
            assert time.monotonic() < until, self.read()
            time.sleep(0.05)

    def end(self, seconds: float = 120) -> int:
        """Its exit code, once it has ended."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {seconds} s:\n{self.read()}")


Start = Callable[..., Started]


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded images, shared by the tests of one process."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def command(
    tmp_path: Path,
    cache_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Command]:
    """The command line in this process: words to an outcome; it runs in `tmp_path`."""
    from saliency_lab.cli.command import run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SALIENCY_LAB_CACHE", str(cache_dir))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    root = logging.getLogger()
    before = root.level, list(root.handlers)

    def outcome(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["saliency-lab", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            run()
        printed = capfd.readouterr()
        code = stop.value.code
        return Outcome(code if isinstance(code, int) else 0, printed.out, printed.err)

    yield outcome
    root.setLevel(before[0])
    root.handlers[:] = before[1]


@pytest.fixture
def start(tmp_path: Path, cache_dir: Path) -> Iterator[Start]:
    """Starts the command line in a process of its own, in `tmp_path`; nothing of it outlives the
    test. `program` is what comes before the words; further keywords are environment variables."""
    started: list[Started] = []
    notes = tmp_path / "notes"
    notes.mkdir()
    (tmp_path / "sitecustomize.py").write_text(NOTING.format(folder=str(notes)))

    def begun(
        *words: str,
        program: Sequence[str] = (sys.executable, "-m", "saliency_lab"),
        **variables: str,
    ) -> Started:
        printed = tmp_path / f"printed-{len(started)}.txt"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(CHECKOUT)]),
            "SALIENCY_LAB_CACHE": str(cache_dir),
            **variables,
        }
        with printed.open("wb") as file:
            process = subprocess.Popen(
                [*program, *words],
                cwd=tmp_path,
                env=environment,
                stdout=file,
                stderr=file,
                preexec_fn=_heed_ctrl_c,
            )
        started.append(Started(process, printed))
        return started[-1]

    yield begun
    for one in started:
        one.process.kill()
        one.process.wait()
    for note in notes.iterdir():
        assert Path(note.read_text()) == CHECKOUT / "saliency_lab" / "__init__.py"


@pytest.fixture
def console_script(tmp_path: Path) -> Path:
    """The script that an installation makes of the project's entry point, beside no interpreter."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["saliency-lab"].partition(":")
    path = tmp_path / "bin" / "saliency-lab"
    path.parent.mkdir()
    path.write_text(
        f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\n"
        f"if __name__ == '__main__':\n    sys.exit({function}())\n"
    )
    path.chmod(0o755)
    return path


@pytest.fixture(scope="session")
def classifier_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of `basic_cnn` for the shapes: untrained, but of many minds."""
    import numpy as np
    import torch
    import yaml

    from saliency_lab.config.location import config_directory
    from saliency_lab.data.drawing import CLASSES, SIDE, drawn
    from saliency_lab.models.construction import built_network

    folder = config_directory() / "model"
    base, own = (yaml.safe_load((folder / f"{n}.yaml").read_text()) for n in ("timm", "basic_cnn"))
    model = {**base, "name": own["name"]}
    shape = (3, SIDE, SIDE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = built_network(model, len(CLASSES), shape, load_weights=False)
        with torch.no_grad():
            # Differences between images, which an untrained network hardly sees, decide.
            images = np.stack([drawn(i % len(CLASSES), (0, 0, i))[0] for i in range(40)])
            logits = network.eval()(torch.from_numpy(images) / 255)
            head = [m for m in network.modules() if isinstance(m, torch.nn.Linear)][-1]
            spread = logits.std(0).mean()
            head.bias.copy_((head.bias - logits.mean(0)) / spread)
            head.weight /= spread
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    facts = {"model": model, "data": "shapes", "classes": list(CLASSES), "input_shape": [*shape]}
    path = tmp_path_factory.mktemp("classifier") / "untrained.ckpt"
    torch.save({"state_dict": state, "facts": {**facts, "fingerprint": ""}}, path)
    return path
