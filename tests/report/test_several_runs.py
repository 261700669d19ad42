"""Runs that differ in when they began, in their curves and in their split: which one is shown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from saliency_lab.evaluation.rows.format import EvaluationSummary
from saliency_lab.report.comparing.panels import build_panels
from saliency_lab.report.comparing.seeds import seed_groups
from saliency_lab.report.page.overview import findings, overview_rows
from saliency_lab.report.reading.records import EvaluationRun

VIEWS = ("original", "positive", "active")
BLACK = ("deletion", "black")


def run(
    seed: int,
    value: float,
    *,
    started: str = "2026-01-01T00:00:00+00:00",
    weights: str = "",
    split: str = "test",
    protocol: str = "threshold",
) -> EvaluationRun:
    """An evaluation whose areas are `value` for the original map and a little less for others."""
    offsets = np.linspace(-0.05, 0.05, 8)
    frames, means = [], []
    for place, view in enumerate(VIEWS):
        areas = value - 0.01 * place + offsets
        frames.append(
            pd.DataFrame(
                {
                    "sample_id": [f"{split}/{number}" for number in range(8)],
                    "method": "gradient", "view": view, "mode": "deletion", "fill": "black",
                    "label": 0, "allegiance": areas,
                }
            )
        )  # fmt: skip
        means.append(
            {
                "method": "gradient", "view": view, "score": "allegiance", "better": "lower",
                "condition": {"mode": "deletion", "fill": "black"}, "images": 8,
                "value": areas.mean(), "low": areas.min(), "high": areas.max(),
            }
        )  # fmt: skip
    evaluator = {
        "name": "deletion", "conditions": ["mode", "fill"], "means": means,
        "scores": [{"name": "allegiance", "better": "lower", "low": 0, "high": 1}],
        "facts": {"protocol": protocol},
    }  # fmt: skip
    summary = {
        "format": 2, "status": "finished", "seed": seed, "method": "gradient",
        "views": list(VIEWS), "evaluators": {"deletion": evaluator},
        "data": {"name": "cifar10", "split": split, "images": 8},
        "model": {"name": "resnet18"}, "accuracy": {"value": 0.5 + seed / 100},
        "checkpoint": {"sha256": weights or f"{seed:064d}"},
    }  # fmt: skip
    return EvaluationRun(
        name=f"evaluate/{seed}-{weights}-{split}-{protocol}", path=Path("nowhere"),
        label="deletion", summary=EvaluationSummary.model_validate(summary),
        environment={"started": started}, pretrained=False, recipe={"optimizer": "adamw"},
        settings={"method.name": "gradient"},
        read_scores=lambda: pd.concat(frames, ignore_index=True),
        example_ids=(),
    )  # fmt: skip


def combined(runs: Sequence[EvaluationRun]) -> dict[int, float]:
    (group,) = seed_groups(build_panels(runs))
    return dict(group.combined["gradient/original", BLACK].by_seed)


def test_every_seed_has_its_own_areas() -> None:
    found = combined([run(1, 0.3), run(2, 0.5), run(3, 0.1)])
    assert found == pytest.approx({1: 0.3, 2: 0.5, 3: 0.1})
    (group,) = seed_groups(build_panels([run(1, 0.3), run(2, 0.5), run(3, 0.1)]))
    for place, view in enumerate(VIEWS):
        cell = group.combined[f"gradient/{view}", BLACK]
        assert cell.value == pytest.approx(0.3 - 0.01 * place)
        assert dict(cell.by_seed) == pytest.approx(
            {1: 0.3 - 0.01 * place, 2: 0.5 - 0.01 * place, 3: 0.1 - 0.01 * place}
        )
    assert [panel.scores["allegiance"].mean() for panel in group.panels] == pytest.approx(
        [0.29, 0.49, 0.09]
    )


def test_of_a_seed_that_was_trained_again_the_latest_evaluation_counts() -> None:
    runs = [
        run(1, 0.3),
        run(2, 0.9, started="2026-03-01T00:00:00+00:00", weights="a" * 64),
        run(2, 0.5, started="2026-03-03T00:00:00+00:00", weights="b" * 64),
        run(2, 0.7, started="2026-03-02T00:00:00+00:00", weights="c" * 64),
    ]
    for ordered in permutations(runs):
        assert combined(ordered) == pytest.approx({1: 0.3, 2: 0.5})


def test_published_numbers_stand_beside_what_they_are_of_alone() -> None:
    """The published areas are of test images and deletion by thresholds."""
    runs = [run(1, 0.3), run(1, 0.4, split="train"), run(1, 0.5, protocol="standard")]
    panels = {
        (panel.summary.data.split, panel.found.facts["protocol"]): panel
        for panel in (build_panels([one])[0] for one in runs)
    }
    assert panels["test", "threshold"].published is not None
    assert panels["train", "threshold"].published is None
    assert panels["test", "standard"].published is None
    rows = overview_rows(build_panels(runs[:2]), [])
    assert [(row.cells["black", "original"].area, row.paper is None) for row in rows] == [
        (pytest.approx(0.3), False),
        (pytest.approx(0.4), True),
    ]


def test_findings_are_of_maps_made_as_in_the_paper() -> None:
    (panel,) = build_panels([run(1, 0.5)])
    assert len(findings([panel])) == 2, "positive and active, of what was measured"
    panel.runs[0].settings["view.channels"] = "sum"
    assert findings([panel]) == []


def test_splits_and_classifiers_are_panels_of_their_own() -> None:
    runs = [run(1, 0.3), run(1, 0.4, split="train"), run(1, 0.6, weights="f" * 64)]
    panels = build_panels(runs)
    found = [panel.main_mean("gradient/original", BLACK).value for panel in panels]
    assert found == pytest.approx([0.3, 0.4, 0.6])
    assert len({panel.title for panel in panels}) == 3
    assert len({panel.slug for panel in panels}) == 3


def test_differences_to_the_original_have_their_sign() -> None:
    (panel,) = build_panels([run(1, 0.3)])
    comparison = panel.comparison_of["gradient/active", BLACK]
    assert comparison.difference == pytest.approx(-0.02)
    assert comparison.high < 0
    assert (comparison.a.view, comparison.b.view) == ("active", "original")
    # Eight equal signs: 2 / 2⁸, and two maps are compared with the original.
    assert comparison.p == pytest.approx(2 / 2**8)
    assert comparison.p_holm == pytest.approx(4 / 2**8)


def test_a_smaller_area_is_significant_if_interval_and_p_say_so() -> None:
    (panel,) = build_panels([run(1, 0.5)])
    start = "Positive, black-deletion:"
    assert findings([panel])[0] == f"{start} a significantly smaller area than original."
    place = ("gradient/positive", BLACK)
    known = panel.comparison_of[place]
    for changed, word in (
        ({"high": 0.001}, "a smaller"),
        ({"p_holm": 0.06}, "a smaller"),
        ({"difference": 0.01, "low": -0.01, "high": 0.03}, "no smaller"),
    ):
        panel.comparison_of[place] = known.model_copy(update=changed)
        assert findings([panel])[0] == f"{start} {word} area than original."
