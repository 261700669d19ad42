"""The report's figures as files: drawn where what they show has changed, kept where not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import FunctionType

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from saliency_lab.report.comparing.known import Known
from saliency_lab.report.comparing.maps import Panel
from saliency_lab.report.drawing import figures
from saliency_lab.report.drawing.palette import label_of
from saliency_lab.report.drawing.saving import Wanted, saved_apart
from saliency_lab.report.drawing.views_figure import views_figure
from saliency_lab.report.page import sections
from saliency_lab.report.page.examples import chosen_examples
from saliency_lab.report.reading.records import TrainingRun
from saliency_lab.reproductions.published import title_of
from saliency_lab.runs.files import write_json
from saliency_lab.runs.progress import shown_progress

_KINDS = ("png", "pdf")
_DIGESTS = ".digests.json"
_FIGURE_EXAMPLES = 6
_FIGURE_MAPS = 8
_COMPARED_METHODS = 3
"""So many methods and there is a figure of which view helps which."""


Drawings = dict[str, Callable[[], Figure]]
"""What draws each figure, by its name."""


@contextmanager
def drawn_figures(
    panels: Sequence[Panel],
    shown: int,
    trainings: Sequence[tuple[str, TrainingRun]],
    folder: Path,
    known: Known,
) -> Iterator[list[Path]]:
    """Draw the figures of a report as PNG and PDF; those that show what they showed are kept.

    Many figures are drawn by processes of their own while the block runs; when it ends, all files
    are there. A digest of what each figure shows lies beside the files; figures of an earlier
    report that belong to none of these panels and trainings are removed.

    Args:
        panels: each has its evaluator's figures, and maybe one of examples.
        shown: how many examples of a panel the page has.
        trainings: by the names of their files.
        folder: where the figures go.
        known: digests of panels that are what they were.

    Yields:
        The files, in the order of panels, trainings and panels with examples.
    """
    for kind in _KINDS:
        for path in folder.glob(f".*.{kind}"):  # left half written by a report that was killed
            path.unlink()
    before = _known_digests(folder)
    digests: dict[str, str | None] = {}
    new: list[str] = []

    def wanted() -> Iterator[Wanted]:
        for each, drawings_of in _groups(panels, shown, trainings, known):
            digests.update(each)
            changed = [
                name for name, digest in each.items()
                if digest is None or digest != before.get(name)
                or not all(path.is_file() for path in _paths(folder, name))
            ]  # fmt: skip
            if changed and not new:
                # What is half drawn when a report is stopped must not pass for what it should be.
                write_json(folder / _DIGESTS, dict.fromkeys(before))
            new.extend(changed)
            drawings = drawings_of() if changed else {}
            yield from ((drawings[name], _paths(folder, name)) for name in changed)

    with saved_apart(wanted()) as finished:
        written = [path for name in digests for path in _paths(folder, name)]
        for kind in _KINDS:
            # Names with a dot in front are what other processes are writing at this moment.
            # Of the others only those that an earlier report has drawn are not the user's own.
            for path in set(folder.glob(f"[!.]*.{kind}")) - set(written):
                if path.stem in before:
                    path.unlink()
        yield written
        for _ in shown_progress(
            finished, total=len(new), title="drawing", unit="figures", count=lambda _: 1
        ):
            pass
    write_json(folder / _DIGESTS, digests)


def _groups(
    panels: Sequence[Panel],
    shown: int,
    trainings: Sequence[tuple[str, TrainingRun]],
    known: Known,
) -> Iterator[tuple[Mapping[str, str | None], Callable[[], Drawings]]]:
    """Digests of figures, and what makes their drawings; those that take long to tell come last."""
    for panel in panels:
        yield known.of_panel(_panel_digests, panel), partial(_panel_drawings, panel)
    for one in trainings:
        yield _digests(_training_drawings(*one)), partial(_training_drawings, *one)
    for panel in panels:
        digests = known.of_panel(_example_digests, panel, shown)
        yield digests, partial(_example_drawings, panel, shown)


def _paths(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}.{kind}" for kind in _KINDS]


def drawing_digest(draw: Callable[[], Figure]) -> str | None:
    """Equal for two drawings of the same data by the same program; None where it cannot be told.

    Args:
        draw: a `functools.partial` of a function of a module, with plain data, dataclasses, arrays
            and tables.
    """
    if not isinstance(draw, partial) or not isinstance(draw.func, FunctionType):
        return None
    digest = hashlib.sha256(_program().encode())
    digest.update(f"{draw.func.__module__}.{draw.func.__qualname__}".encode())
    try:
        for part in _bytes_of([list(draw.args), draw.keywords]):
            digest.update(part)
    except TypeError:
        return None
    return digest.hexdigest()


def _bytes_of(value: object) -> Iterator[bytes]:
    """The content of containers, records, arrays and tables; TypeError for anything else."""
    yield type(value).__name__.encode() + b":"
    if isinstance(value, pd.DataFrame):
        yield value.to_csv().encode()
    elif isinstance(value, np.ndarray):
        if value.dtype == object:
            raise TypeError("an array of objects has no bytes of its own")
        yield f"{value.dtype} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from (*_bytes_of(name), *_bytes_of(each))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _bytes_of(each)
    elif dataclasses.is_dataclass(value):
        for each in dataclasses.fields(value):
            yield from (*_bytes_of(each.name), *_bytes_of(getattr(value, each.name)))
    elif value is None or isinstance(value, str | int | float | bool | np.generic):
        yield repr(value).encode()
    else:
        raise TypeError(f"no digest of a {type(value).__name__}")
    yield b";"


@cache
def _program() -> str:
    """What draws: the text of the drawing modules, and matplotlib's version."""
    digest = hashlib.sha256(mpl.__version__.encode())
    for file in sorted(Path(figures.__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _known_digests(folder: Path) -> dict[str, str | None]:
    """By the names of the figures that a report has drawn there; None: to be drawn anew."""
    try:
        return dict(json.loads((folder / _DIGESTS).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}


def _digests(drawings: Drawings) -> dict[str, str | None]:
    return {name: drawing_digest(draw) for name, draw in drawings.items()}


def _panel_digests(panel: Panel) -> dict[str, str | None]:
    return _digests(_panel_drawings(panel))


def _example_digests(panel: Panel, count: int) -> dict[str, str | None]:
    return _digests(_example_drawings(panel, count))


def _panel_drawings(panel: Panel) -> Drawings:
    part = sections.part_of(panel)
    own = part.panel_figures(panel) if part else {}
    found: Drawings = {f"{name}-{panel.slug}": draw for name, draw in own.items()}
    if len({one.method for one in panel.maps}) >= _COMPARED_METHODS:
        title, score = panel.title, panel.main.replace("_", " ")
        found[f"views-{panel.slug}"] = partial(views_figure, _main_means(panel), title, score)
    return found


def _example_drawings(panel: Panel, count: int) -> Drawings:
    one = chosen_examples(panel, count)
    if one is None:
        return {}
    curves = [curve for curve in panel.maps if curve.key in one.maps][:_FIGURE_MAPS]
    maps = {curve.label: one.maps[curve.key][:_FIGURE_EXAMPLES] for curve in curves}
    rows = one.row_labels[:_FIGURE_EXAMPLES]
    draw = partial(figures.example_grid, one.images[:_FIGURE_EXAMPLES], maps, rows)
    return {f"examples-{panel.slug}": draw}


def _training_drawings(slug: str, run: TrainingRun) -> Drawings:
    title = title_of(run.summary.data.name, run.summary.model.name, run.pretrained)
    found: Drawings = {f"training-{slug}": partial(figures.training_figure, run.metrics, title)}
    classes, confusion = run.summary.data.classes, run.summary.confusion
    if confusion and len(classes) == len(confusion):
        named = f"{title}: confusion"
        found[f"confusion-{slug}"] = partial(figures.confusion_figure, confusion, classes, named)
    return found


def _main_means(panel: Panel) -> pd.DataFrame:
    """The main score of every map of a panel, for the figure of methods and views.

    A method that was measured under several settings is several, told apart as their labels are.
    """
    return pd.DataFrame(
        {
            "method": one.method + one.label.removeprefix(label_of(one.method, one.view)),
            "view": one.view, "condition": panel.condition_text(condition),
            "better": mean.better, "value": mean.value, "low": mean.low, "high": mean.high,
            "control": one.control, "blind": one.blind,
        }
        for condition in panel.conditions
        for one in panel.maps
        if (mean := panel.main_mean(one.key, condition)) is not None
    )  # fmt: skip
