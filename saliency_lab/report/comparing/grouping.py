"""Which runs belong together: the same measurement of one classifier, or of its other seeds."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from saliency_lab.report.drawing.notation import count_text
from saliency_lab.report.reading.configs import difference_text
from saliency_lab.report.reading.records import EvaluationRun
from saliency_lab.reproductions.published import title_of

Identity = tuple[object, ...]
Measure = tuple[str, tuple[tuple[str, str], ...]]
"""An evaluator and its settings, as `EvaluationRun.measure` has them."""

_SEED_TRAIT = 5  # the place in `_traits`; those after it are named only if these do not tell

_NAMED_CLASSES = 4


def identity_of(run: EvaluationRun) -> Identity:
    """Equal for runs that measured the same classifier on the same images in the same way."""
    summary = run.summary
    return (*family_of(run), (summary.checkpoint or {}).get("sha256"), summary.seed)


def family_of(run: EvaluationRun) -> Identity:
    """Equal for runs of one model on the same images, however its classifiers were trained."""
    return (*kind_of(run), run.summary.data.fingerprint)


def kind_of(run: EvaluationRun) -> Identity:
    """Equal for runs of one model on as many images of the same classes, maybe other ones."""
    summary = run.summary
    return (
        summary.data.name,
        summary.model.name,
        run.pretrained,
        summary.data.split,
        str(summary.data.images),
        tuple(summary.data.classes),
        run.measure,
    )


def titles_of(
    runs: Sequence[EvaluationRun], seeds: bool = True, *, measured: bool = True
) -> list[str]:
    """ "Data · model" of each run, and after it whatever tells it from others of that name.

    Args:
        runs: one of each identity, or of each family with `seeds` false.
        seeds: whether seed and weights may be named.
        measured: whether evaluator and number of images may be.
    """
    names = [
        title_of(run.summary.data.name, run.summary.model.name, run.pretrained) for run in runs
    ]
    titles = []
    for name, run in zip(names, runs, strict=True):
        same = [other for other, its_name in zip(runs, names, strict=True) if its_name == name]
        mine, *its = (_traits(one, same, seeds, measured) for one in (run, *same))
        told = _telling(mine, its)
        titles.append(name + (f" ({', '.join(told)})" if told else ""))
    return titles


def measure_names(measures: Collection[Measure]) -> dict[Measure, str]:
    """ "relevance_gain, protocol=standard": each evaluator, and what tells its settings apart."""
    names = {}
    for measure in measures:
        name, settings = measure
        told = difference_text(dict(settings), [dict(its) for one, its in measures if one == name])
        names[measure] = f"{name}, {told}" if told else name
    return names


def _classes_text(classes: Sequence[str]) -> str:
    """ "classes cat, dog", "classes cat, deer, dog, frog and 6 more"."""
    rest = len(classes) - _NAMED_CLASSES
    more = f" and {rest} more" if rest > 0 else ""
    return f"classes {', '.join(classes[:_NAMED_CLASSES])}{more}" if classes else ""


def _telling(mine: Sequence[str], same: Sequence[Sequence[str]]) -> list[str]:
    chosen: list[int] = []
    for place in range(len(mine)):
        differs = len({other[place] for other in same}) > 1
        told = {tuple(other[at] for at in chosen) for other in same}
        enough = place > _SEED_TRAIT and len(told) == len(same)
        if differs and not enough:
            chosen.append(place)
    return [mine[place] for place in chosen if mine[place]]


def _traits(
    run: EvaluationRun, same: Sequence[EvaluationRun], seeds: bool, measured: bool
) -> tuple[str, ...]:
    summary = run.summary
    checkpoint = summary.checkpoint or {}
    traits = (
        f"{summary.data.split} split",
        _classes_text(summary.data.classes),
        f"{count_text(summary.data.images)} images" if measured else "",
        measure_names([one.measure for one in same])[run.measure] if measured else "",
        difference_text(run.recipe, [other.recipe for other in same if other.recipe])
        if run.recipe
        else "",
    )
    if not seeds:
        return traits
    return (
        *traits,
        f"seed {summary.seed}",
        f"epoch {checkpoint['epoch']}" if checkpoint.get("epoch") else "",
        f"weights {str(checkpoint.get('sha256', '?'))[:6]}",
    )
