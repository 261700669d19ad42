"""The wheel: built, installed where there is no checkout, and used from an empty folder."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec("hatchling") is None, reason="hatchling is not installed"
    ),
]

QUICK = "trainer=cpu trainer.threads=1 logger=none data.batch_size=32"
METHOD = "name: brightness\n_target_: my_methods.brightness\npower: 2.0\n"
MODULE = """
def brightness(model, images, targets, *, power: float = 1.0, generator=None):
    return images.mean(1) ** power
"""


def _done(words: list[str | Path], **options: object) -> str:
    done = subprocess.run(words, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built with what is installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    _done(
        [sys.executable, "-m", "pip", "wheel", *flags, "-w", folder, CHECKOUT],
        cwd=folder,
    )
    (built,) = folder.glob("saliency_lab-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that has the wheel, and sees what it depends on."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    _done([sys.executable, "-m", "venv", "--without-pip", home])
    python = home / "bin" / "python"
    flags = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    _done([sys.executable, "-m", "pip", "--python", python, "install", *flags, wheel])
    # After the environment's own packages, so the wheel is what is found.
    seen = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (own,) = home.glob("lib/python*/site-packages")
    (own / "dependencies.pth").write_text("\n".join(seen) + "\n")
    return python.parent


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with nothing of the checkout on Python's path."""
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.setenv("SALIENCY_LAB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_what_is_inside(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for kind in ("method", "model", "data", "evaluator", "view", "experiment/llorente2023"):
        group = CHECKOUT / "conf" / kind
        ours = {path.relative_to(group).as_posix() for path in group.rglob("*.yaml")}
        folder = f"saliency_lab/conf/{kind}/"
        inside = {name.removeprefix(folder) for name in names if name.startswith(folder)}
        assert ours == inside, kind
    templates = (CHECKOUT / "saliency_lab/report/page/templates").iterdir()
    assert {f"saliency_lab/report/page/templates/{path.name}" for path in templates} <= set(names)
    assert "saliency_lab/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert not [n for n in names if n.startswith(("tests/", "docs/", "benchmarks/", "outputs/"))]


def test_the_program_from_an_empty_folder(installed: Path, empty: Path) -> None:
    program = installed / "saliency-lab"

    def run(words: str, **variables: str) -> str:
        return _done([program, *words.split()], cwd=empty, env={**os.environ, **variables})

    code = (
        "import saliency_lab as s; from saliency_lab.config.location import config_directory as c;"
        "print(s.__file__, c(), s.__version__)"
    )
    package, conf, version = _done([installed / "python", "-c", code], cwd=empty).split()
    assert Path(package).is_relative_to(installed.parent)
    assert Path(conf) == Path(package).parent / "conf"

    assert run("--version").strip() == version
    assert "evaluate" in run("--help")
    assert "basic_cnn" in run("train --help")

    assert "accuracy" in run(f"train data.limit=200 trainer.max_epochs=1 {QUICK}").lower()
    (empty / "mine/method").mkdir(parents=True)
    (empty / "mine/method/brightness.yaml").write_text(METHOD)
    (empty / "my_methods.py").write_text(MODULE)
    measured = run(
        "evaluate --config-dir mine method=brightness data.limit=20 trainer.max_epochs=1 "
        f"resamples=50 {QUICK}",
        PYTHONPATH=".",
    )
    assert "brightness" in measured
    assert "index.html" in run("report logger=none")
    page = (empty / "outputs/report/index.html").read_text()
    assert "brightness" in page
