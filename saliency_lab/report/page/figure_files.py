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

from saliency_lab.report.comparing.maps import Panel
from saliency_lab.report.drawing import figures
from saliency_lab.report.drawing.saving import saved_apart
from saliency_lab.report.drawing.views_figure import views_figure
from saliency_lab.report.page import sections
from saliency_lab.report.page.examples import Examples
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


@contextmanager
def drawn_figures(
    panels: Sequence[Panel],
    examples: Sequence[Examples],
    trainings: Sequence[tuple[str, TrainingRun]],
    folder: Path,
) -> Iterator[list[Path]]:
    """Draw the figures of a report as PNG and PDF; those that show what they showed are kept.

    Many figures are drawn by processes of their own while the block runs; when it ends, all files
    are there. A digest of what each figure shows lies beside the files; figures of an earlier
    report that belong to none of these panels and trainings are removed.

    Yields:
        The files, in the order of panels, examples and trainings.
    """
    drawn = list(_figures(panels, examples, trainings))
    before = _known_digests(folder)
    digests = {name: drawing_digest(draw) for name, draw in drawn}
    paths = {name: [folder / f"{name}.{kind}" for kind in _KINDS] for name, _ in drawn}
    written = [path for name, _ in drawn for path in paths[name]]
    for kind in _KINDS:
        for path in set(folder.glob(f"*.{kind}")) - set(written):
            path.unlink()
    new = {
        name: draw
        for name, draw in drawn
        if digests[name] is None
        or digests[name] != before.get(name)
        or not all(path.is_file() for path in paths[name])
    }
    # What is half drawn when a report is stopped must not pass for what the next one wants.
    write_json(folder / _DIGESTS, {n: digests[n] for n, _ in drawn if n not in new})
    with saved_apart([(draw, paths[name]) for name, draw in new.items()]) as finished:
        yield written
        for _ in shown_progress(
            finished, total=len(new), title="drawing", unit="figures", count=lambda _: 1
        ):
            pass
    write_json(folder / _DIGESTS, {name: digest for name, digest in digests.items() if digest})


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


def _known_digests(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / _DIGESTS).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}


def _figures(
    panels: Sequence[Panel],
    examples: Sequence[Examples],
    trainings: Sequence[tuple[str, TrainingRun]],
) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """The name of each figure and what draws it."""
    for panel in panels:
        part = sections.part_of(panel)
        own = part.panel_figures(panel) if part else {}
        for name, draw in own.items():
            yield f"{name}-{panel.slug}", draw
        if len({one.method for one in panel.maps}) >= _COMPARED_METHODS:
            title, score = panel.title, panel.main.replace("_", " ")
            yield f"views-{panel.slug}", partial(views_figure, _main_means(panel), title, score)
    for one in examples:
        curves = [curve for curve in one.panel.maps if curve.key in one.maps][:_FIGURE_MAPS]
        maps = {curve.label: one.maps[curve.key][:_FIGURE_EXAMPLES] for curve in curves}
        rows = one.row_labels[:_FIGURE_EXAMPLES]
        draw = partial(figures.example_grid, one.images[:_FIGURE_EXAMPLES], maps, rows)
        yield f"examples-{one.panel.slug}", draw
    for slug, run in trainings:
        title = title_of(run.summary.data.name, run.summary.model.name, run.pretrained)
        yield f"training-{slug}", partial(figures.training_figure, run.metrics, title)
        classes, confusion = run.summary.data.classes, run.summary.confusion
        if confusion and len(classes) == len(confusion):
            named = f"{title}: confusion"
            yield f"confusion-{slug}", partial(figures.confusion_figure, confusion, classes, named)


def _main_means(panel: Panel) -> pd.DataFrame:
    """The main score of every map of a panel, for the figure of methods and views."""
    return pd.DataFrame(
        {
            "method": one.method, "view": one.view, "condition": panel.condition_text(condition),
            "better": mean.better, "value": mean.value, "low": mean.low, "high": mean.high,
            "control": one.control,
        }
        for condition in panel.conditions
        for one in panel.maps
        if (mean := panel.main_mean(one.key, condition)) is not None
    )  # fmt: skip
