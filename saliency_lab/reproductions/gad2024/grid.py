"""The commands that make up the reproduction of GAD: sources, classes, networks.

Rodrigues, Boutry, Najman, "Transforming gradient-based techniques into interpretable methods",
2024: five sources on two pairs of classes (cats and dogs; warblers and sparrows) and two networks
(VGG-16, ResNet-18), 512 images of each pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

PAPER = "gad2024"

_METHODS = "saliency_lab.attribution.methods"
SOURCES = {
    "gradient": f"{_METHODS}.gradient.gradient",
    "deconvnet": f"{_METHODS}.guided_backprop.deconvnet",
    "gradient_x_input": f"{_METHODS}.gradient_x_input.gradient_x_input",
    "guided_backprop": f"{_METHODS}.guided_backprop.guided_backprop",
    "integrated_gradients": f"{_METHODS}.integrated_gradients.integrated_gradients",
}
"""The paper's sources by their names here, in its order."""

IMAGES = 512
"""Test images of a pair, half of them of each class."""


TRAIN, KEPT, WHOLE = "train", "maps", "maps-whole"
FIGURE_SOURCE = "gradient"
_PER_CLASS = 4


def method_words(source: str) -> tuple[str, ...]:
    """The overrides that choose GAD over a source, under a name of its own."""
    return ("method=gad", f"method.name=gad_{source}", f"method.base._target_={SOURCES[source]}")


def job_words(
    common: Sequence[str],
    evaluation: Sequence[str],
    *,
    figures: bool,
    sources: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Kind and command of every job of a column, in the order in which they build on each other.

    Args:
        common: overrides of every job.
        evaluation: further ones of the evaluations.
        figures: also the jobs whose maps are drawn.
        sources: further ones of the evaluations of single sources.
    """
    yield TRAIN, ("train", *common)
    for source in SOURCES:
        words = (*method_words(source), "evaluator=[hull]", f"data.limit={IMAGES}")
        own = (sources or {}).get(source, ())
        yield source, ("evaluate", *common, *words, *evaluation, *own)
    if figures:
        # What decides the support models, so that the figures are of the same ones.
        same = [word for word in evaluation if word.startswith("method.")]
        words = (*method_words(FIGURE_SOURCE), *same, f"per_class={_PER_CLASS}")
        yield KEPT, ("explain", *common, *words)
        # Where every pixel is important, GAD's map is the original one.
        yield WHOLE, ("explain", *common, *words, "method.level=1.0")
