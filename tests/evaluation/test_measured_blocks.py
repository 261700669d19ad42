"""Rows belong to their images: labels, fills and predictions, whatever the blocks are."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from saliency_lab.attribution.methods.adaptive import adaptive
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.attribution.methods.integrated_gradients import integrated_gradients
from saliency_lab.attribution.methods.smoothgrad import smoothgrad
from saliency_lab.evaluation.context import Method
from saliency_lab.evaluation.deletion import evaluator as deletion
from saliency_lab.evaluation.deletion.evaluator import Deletion
from saliency_lab.evaluation.loop import MAPS
from saliency_lab.inference.engine import Engine

from .small_run import IMAGES, Fixed, measured, shapes

KEYS = ["sample_id", "view", "mode", "fill", "fraction"]
ORIGINAL = Method("gradient", gradient, ("original", "active"))


def images_of(folder: Path) -> Tensor:
    return torch.from_numpy(shapes(folder).images("test", range(IMAGES))).float().div(255)


@pytest.mark.parametrize("block", [1, 4, 50])
def test_every_row_carries_its_own_images_label_and_place(tmp_path: Path, block: int) -> None:
    plan = measured(tmp_path, {"deletion": Deletion(fills=["black", "white"])}, ORIGINAL,
                    block=block)  # fmt: skip
    data = shapes(tmp_path)
    truth = pd.DataFrame({"sample_id": data.ids("test"), "truth": data.labels("test"),
                          "place": range(IMAGES)})  # fmt: skip
    assert truth["truth"].nunique() > 5
    for label, rows in (("deletion", 2 * 2 * 13), (MAPS, 1)):
        found = plan.shards[label].rows().merge(truth, on="sample_id")
        assert len(found) == rows * IMAGES
        assert (found["label"] == found["truth"]).all()
        assert (found["index"] == found["place"]).all()


def test_rows_are_the_masked_images_own_answers(tmp_path: Path) -> None:
    """One image at a time, from the rows' own words: which pixels, which fill, which network."""
    plan = measured(tmp_path, {"deletion": Deletion(modes=["deletion", "insertion"])}, ORIGINAL)
    rows = plan.shards["deletion"].rows().set_index(KEYS)
    assert rows.index.is_unique
    network, images = Fixed().eval(), images_of(tmp_path)
    for number in (0, 4, 10):
        image, name = images[number : number + 1], f"shapes/test/{number}"
        leaf = image.clone().requires_grad_(True)
        logits = network(leaf)
        target = int(logits.argmax())
        (slope,) = torch.autograd.grad(logits[0, target], leaf)
        importance = slope[0].abs().amax(0).flatten()
        for fraction, mode, fill in ((0.1, "deletion", 0.0), (0.3, "insertion", 1.0)):
            threshold = importance.sort(descending=True).values[round(fraction * 1024)]
            chosen = (importance > threshold).view(32, 32)
            gone = chosen if mode == "deletion" else ~chosen
            with torch.no_grad():
                answer = network(torch.where(gone, fill, image))[0]
            row = rows.loc[name, "original", mode, "black" if fill == 0 else "white", fraction]
            assert row["prediction"] == int(answer.argmax())
            assert row["agrees"] == (int(answer.argmax()) == target)
            assert row["logit"] == pytest.approx(float(answer[target]), abs=1e-3)
            assert row["probability"] == pytest.approx(float(answer.softmax(0)[target]), abs=1e-4)
            assert row["deleted"] == pytest.approx(float(gone.float().mean()), abs=1e-3)


def test_fills_belong_to_the_image_and_not_to_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = deletion.replacement
    drawn: dict[int, list[Tensor]] = {}

    def noting(*arguments: object, **named: object) -> Tensor:
        found = real(*arguments, **named)
        drawn.setdefault(len(drawn_for), []).extend(found.unbind())
        return found

    monkeypatch.setattr(deletion, "replacement", noting)
    drawn_for: list[int] = []
    for block in (1, 4, 50):
        drawn_for.append(block)
        measured(tmp_path / str(block), {"deletion": Deletion(fills=["noise"])}, ORIGINAL,
                 block=block)  # fmt: skip
    assert [len(fills) for fills in drawn.values()] == [IMAGES] * 3
    for one, four, all_at_once in zip(*drawn.values(), strict=True):
        assert torch.equal(one, four)
        assert torch.equal(one, all_at_once)
    assert len({float(fill.sum()) for fill in drawn[1]}) == IMAGES


@pytest.mark.parametrize("fills", [["black", "white"], ["blur", "noise"]])
def test_blocks_change_no_row(tmp_path: Path, fills: list[str]) -> None:
    # One image at a time: how many go together decides the last digits of a convolution.
    engine, frames = Engine(maps_batch=1, scores_batch=1), []
    for block in (3, 50):
        plan = measured(tmp_path / str(block), {"deletion": Deletion(fills=fills)}, ORIGINAL,
                        block=block, engine=engine)  # fmt: skip
        rows = plan.shards["deletion"].rows().astype({"view": str, "mode": str, "fill": str})
        frames.append(rows.sort_values(KEYS, ignore_index=True))
    pd.testing.assert_frame_equal(*frames, check_exact=True)


@pytest.mark.parametrize(
    "settings",
    [{}, {"modes": ["insertion"]}, {"modes": ["insertion", "deletion"]}, {"fractions": [0.3, 0.9]}],
)
def test_the_accuracy_is_of_the_intact_images(tmp_path: Path, settings) -> None:
    plan = measured(tmp_path, {"deletion": Deletion(**settings)}, ORIGINAL)
    intact = plan.shards[MAPS].rows()
    with torch.no_grad():
        expected = Fixed().eval()(images_of(tmp_path)).argmax(1)
    assert intact["prediction"].tolist() == expected.tolist()
    assert len(set(expected.tolist())) > 3
    # It would be another one from the first fraction of most of these curves.
    agreed = plan.shards["deletion"].rows().groupby("fraction")["agrees"].mean()
    assert agreed.min() < 1


def first_colours(images: Tensor) -> Tensor:
    """One whole number per image, exact in float32."""
    red, green, blue = (images[:, :, 0, 0] * 255).round().unbind(1)
    return 65536 * red + 256 * green + blue


class Poisoned(nn.Module):
    """Answers NaN for two images, told by the colour of their first pixel."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.network = Fixed()
        self.marks = first_colours(images)[[2, 7]]

    def forward(self, images: Tensor) -> Tensor:
        bad = (first_colours(images)[:, None] == self.marks).any(1)
        return self.network(images).masked_fill(bad[:, None], float("nan"))


def test_images_that_are_skipped_leave_the_rows_of_the_others_alone(tmp_path: Path) -> None:
    images = images_of(tmp_path)
    assert len(set(first_colours(images).tolist())) == IMAGES
    method, evaluators = Method("gradient", gradient, ("original",)), {"deletion": Deletion()}
    plain = Engine(frozen_copy=False)
    whole = measured(tmp_path / "whole", evaluators, method, engine=plain)
    holed = measured(tmp_path / "holed", evaluators, method, engine=plain,
                     network=Poisoned(images), on_nonfinite="skip")  # fmt: skip
    skipped = ["shapes/test/2", "shapes/test/7"]
    assert [name for meta in holed.shards[MAPS].metas() for name in meta["skipped"]] == skipped
    for label in ("deletion", MAPS):
        rows = whole.shards[label].rows()
        expected = rows[~rows["sample_id"].isin(skipped)].reset_index(drop=True)
        found = holed.shards[label].rows()
        assert found["sample_id"].tolist() == expected["sample_id"].tolist()
        if label == "deletion":
            np.testing.assert_allclose(found["logit"], expected["logit"], atol=1e-3)


def test_images_that_are_skipped_have_no_sums_and_no_errors(tmp_path: Path) -> None:
    images = images_of(tmp_path)
    plain, poisoned = Engine(frozen_copy=False), Poisoned(images)
    for name, source, key in (
        ("integrated_gradients", partial(integrated_gradients, steps=2), "completeness"),
        ("adaptive", partial(adaptive, base=partial(smoothgrad, samples=2)), "estimate"),
    ):
        method = Method(name, source, ("original",))
        holed = measured(tmp_path / name, {"deletion": Deletion()}, method, engine=plain,
                         network=poisoned, on_nonfinite="skip")  # fmt: skip
        rows = [row for meta in holed.shards[MAPS].metas() for row in meta[key]]
        kept = [f"shapes/test/{index}" for index in range(IMAGES) if index not in (2, 7)]
        assert [row[0] for row in rows] == kept
        assert np.isfinite([row[1:] for row in rows]).all()
