"""A few drawn fractions against the whole curve: exact expectations, forwards, rows and tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.errors import UserError
from saliency_lab.evaluation.context import Method
from saliency_lab.evaluation.deletion.curves import masked_scores
from saliency_lab.evaluation.deletion.draws import (
    checked_draws,
    drawn_fractions,
    most_draws,
    trapezoid_weights,
)
from saliency_lab.evaluation.deletion.evaluator import Deletion
from saliency_lab.evaluation.deletion.masking import MaskingJob, Mode
from saliency_lab.evaluation.deletion.removal import (
    PAPER_FRACTIONS,
    STANDARD_FRACTIONS,
    area_under_curve,
    deletion_levels,
)
from saliency_lab.imputation.fills import fill_images
from tests.evaluation.deletion.test_curves import Counted, net, sparse_maps
from tests.evaluation.small_run import measured

UNEVEN = (0.0, 0.5, 0.55, 0.9)


@pytest.mark.parametrize("fractions", [PAPER_FRACTIONS, STANDARD_FRACTIONS, UNEVEN])
def test_weights_are_the_trapezoids(fractions: tuple[float, ...]) -> None:
    curves = torch.rand(5, len(fractions), dtype=torch.float64)
    expected = area_under_curve(curves, fractions)
    torch.testing.assert_close(curves @ trapezoid_weights(fractions), expected)


@pytest.mark.parametrize(
    ("fractions", "most"),
    [(PAPER_FRACTIONS, 9), (STANDARD_FRACTIONS, 20), (UNEVEN, 3), ((0.1,), 0)],
)
def test_as_many_as_come_once_each(fractions: tuple[float, ...], most: int) -> None:
    assert most_draws(fractions) == most
    starts = torch.arange(1000) / 1000
    for draws in range(1, most + 1):
        drawn = drawn_fractions(fractions, draws, starts)
        assert drawn.shape == (1000, draws)
        assert drawn.min() >= 0
        assert drawn.max() < len(fractions)
        assert (drawn.diff(dim=1) > 0).all()
    assert checked_draws(None, fractions) is None
    for wrong in (0, most + 1):
        with pytest.raises(UserError, match=rf"draws` to be 1 to {most} .* got {wrong}"):
            checked_draws(wrong, fractions)


@pytest.mark.parametrize("fractions", [PAPER_FRACTIONS, STANDARD_FRACTIONS, UNEVEN])
@pytest.mark.parametrize("draws", [1, 2, 3])
def test_areas_are_right_in_expectation_and_never_out_of_range(
    fractions: tuple[float, ...], draws: int
) -> None:
    curves = torch.rand(6, len(fractions), generator=torch.Generator().manual_seed(0)).double()
    curves[0], curves[1] = 0, 1
    # All starts, evenly: the mean over them is the integral over the start but for 1/(2·count).
    count = 20_000
    drawn = drawn_fractions(fractions, draws, (torch.arange(count) + 0.5) / count)
    areas = curves[:, drawn].mean(2) * (fractions[-1] - fractions[0])
    torch.testing.assert_close(
        areas.mean(1), area_under_curve(curves, fractions), rtol=0, atol=2e-4
    )
    assert areas.min() >= 0
    assert areas.max() <= fractions[-1] - fractions[0] + 1e-12
    # Of ones and zeros nothing is left to chance.
    torch.testing.assert_close(areas[:2].amax(1) - areas[:2].amin(1), torch.zeros(2).double())


@pytest.mark.parametrize("mode", ["deletion", "insertion"])
@pytest.mark.parametrize("batch_size", [2, 1000])
def test_only_what_is_drawn_is_asked_for_and_answered_as_among_all(
    mode: Mode, batch_size: int
) -> None:
    model, images = net(), torch.rand(4, 3, 8, 10)
    jobs = [
        MaskingJob(deletion_levels(sparse_maps()), fill_images(images, "black"), mode),
        MaskingJob(deletion_levels(torch.rand(4, 8, 10)), fill_images(images, "white"), mode),
    ]
    steps = drawn_fractions(PAPER_FRACTIONS, 4, torch.tensor([0.0, 0.3, 0.6, 0.99]))
    whole = masked_scores(model, images, jobs, len(PAPER_FRACTIONS))
    forward = Counted(model)
    drawn = masked_scores(
        forward, images, jobs, len(PAPER_FRACTIONS), batch_size=batch_size, steps=steps
    )
    asked = 0
    for job, (some, every) in zip(jobs, zip(drawn, whole, strict=True), strict=True):
        for name in ("prediction", "probability", "logit", "deleted"):
            expected = getattr(every, name).gather(1, steps)
            torch.testing.assert_close(getattr(some, name), expected, rtol=1e-5, atol=1e-6)
        for row, chosen in zip(job.levels, steps, strict=True):
            reached = {
                frozenset((row <= step).flatten().nonzero().flatten().tolist()) for step in chosen
            }
            untouched = frozenset() if mode == "deletion" else frozenset(range(80))
            asked += len(reached - {untouched})
    assert sum(forward.batches) == asked + len(images)


def test_an_evaluation_says_what_the_whole_curves_say_at_the_fractions_drawn(
    tmp_path: Path,
) -> None:
    modes: tuple[Mode, ...] = ("deletion", "insertion")
    whole, some = Deletion(modes=modes), Deletion(modes=modes, draws=3)
    method = Method("gradient", gradient, ("original", "active"))
    plan = measured(tmp_path, {"whole": whole, "some": some}, method)
    every, drawn = plan.shards["whole"].rows(), plan.shards["some"].rows()
    keys = ["sample_id", "view", "mode", "fill", "fraction"]
    assert len(drawn) * len(PAPER_FRACTIONS) == len(every) * 3
    assert not drawn.duplicated(keys).any()
    both = drawn.merge(every, on=keys, suffixes=("", "_whole"))
    assert len(both) == len(drawn)
    for column in ("prediction", "agrees", "deleted"):
        assert (both[column] == both[f"{column}_whole"]).all()
    np.testing.assert_allclose(both["probability"], both["probability_whole"], atol=1e-5)
    # An image is asked for the same fractions on all of its curves, images for different ones.
    asked = drawn.groupby(["sample_id", "view", "mode", "fill"], observed=True)["fraction"]
    by_image = asked.agg(tuple).groupby("sample_id").agg(set)
    assert by_image.map(len).max() == 1
    # More sets of fractions than blocks of images.
    assert len(set.union(*by_image)) > 3
    scores, expected = some.image_scores(drawn), whole.image_scores(every)
    places = ["sample_id", "view", "mode", "fill"]
    joined = scores.merge(expected, on=places, suffixes=("", "_whole"))
    assert len(joined) == len(expected)
    np.testing.assert_allclose(joined["deleted"], joined["deleted_whole"], atol=1e-6)
    means = drawn.groupby(places, observed=True)[["agrees", "probability", "logit"]].mean() * 0.9
    found = scores.set_index(places).sort_index()
    for score, column in zip(("allegiance", "probability", "logit"), means, strict=True):
        np.testing.assert_allclose(found[score], means[column].sort_index(), rtol=1e-5)
    curves = some.tables(drawn, 100)["curves"]
    assert list(curves.columns) == list(whole.tables(every, 100)["curves"].columns)
    point = curves.iloc[5]
    keys = ["view", "mode", "fill", "fraction"]
    same = (drawn[keys] == point[keys]).all(axis=1)
    assert point["allegiance"] == pytest.approx(drawn.loc[same, "agrees"].mean())
    assert point["low"] <= point["allegiance"] <= point["high"]
    assert some.facts(drawn, scores)["draws"] == 3
    assert "draws" not in whole.facts(every, expected)
