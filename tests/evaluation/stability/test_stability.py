"""Perturbations undone, relative stability by its definition, and rows of known maps."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.core.sources import Source
from saliency_lab.attribution.methods.controls import random_map, sobel
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.data.batch import Batch
from saliency_lab.data.shapes import Shapes
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import measured_rows
from saliency_lab.evaluation.context import Context, Method, found_maps
from saliency_lab.evaluation.stability.evaluator import Stability
from saliency_lab.evaluation.stability.perturbations import (
    Perturbed,
    compressed,
    flipped,
    noisy,
    rotated,
    shifted,
)
from saliency_lab.evaluation.stability.relative import (
    relative_change,
    representations,
    worst_stability,
)
from saliency_lab.inference.engine import Engine
from saliency_lab.models.basic_cnn import BasicCNN

IMAGES = torch.rand(4, 3, 32, 40, generator=torch.Generator().manual_seed(0))
IDS = [f"test/{i}" for i in range(4)]


def streams() -> SampleGenerator:
    return SampleGenerator(1, IDS)


def test_a_shift_is_numpy_s_roll_inside_and_is_undone_exactly() -> None:
    found = shifted(IMAGES, 3, streams())
    ways = set()
    for before, after in zip(IMAGES, found.images, strict=True):
        fits = [
            (down, right)
            for down in (-3, 3)
            for right in (-3, 3)
            if np.array_equal(
                np.roll(before, (down, right), (1, 2))[:, 3:-3, 3:-3], after[:, 3:-3, 3:-3]
            )
        ]
        assert len(fits) == 1
        ways.add(fits[0])
    assert len(ways) > 1
    map_of = found.images.sum(1)
    assert torch.equal(found.inner(found.restored(map_of)), found.inner(IMAGES.sum(1)))
    assert found.inner(map_of).shape == (4, 26, 34)


def test_a_flip_is_undone_exactly() -> None:
    found = flipped(IMAGES)
    assert torch.equal(found.images, torch.from_numpy(IMAGES.numpy()[..., ::-1].copy()))
    assert torch.equal(found.restored(found.images[:, 0]), IMAGES[:, 0])
    assert found.margin == 0


def test_a_rotation_is_scipy_s_and_smooth_maps_survive_its_undoing() -> None:
    found = rotated(IMAGES, 5.0, streams())
    for before, after in zip(IMAGES, found.images, strict=True):
        turned = [
            ndimage.rotate(before.numpy(), angle, (1, 2), reshape=False, order=1, mode="nearest")
            for angle in (-5, 5)
        ]
        errors = [float(np.abs(one - after.numpy()).max()) for one in turned]
        assert min(errors) < 1e-4 < max(errors)
    ramp = torch.linspace(0, 1, 32)[:, None] + torch.linspace(0, 2, 40)
    turned_ramp = rotated(ramp.expand(4, 1, 32, 40), 5.0, streams())
    back = turned_ramp.inner(turned_ramp.restored(turned_ramp.images[:, 0]))
    torch.testing.assert_close(back, turned_ramp.inner(ramp.expand(4, 32, 40)), atol=1e-5, rtol=0)


def test_jpeg_is_pillow_s() -> None:
    found = compressed(IMAGES, 30)
    for before, after in zip(IMAGES, found.images, strict=True):
        pixels = (before * 255).round().byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=30)
        assert np.array_equal((after * 255).round().byte().permute(1, 2, 0), Image.open(file))
    assert compressed(IMAGES[:, :1], 30).images.shape == (4, 1, 32, 40)
    with pytest.raises(UserError, match="1 or 3 channels"):
        compressed(IMAGES[:, :2], 30)


def test_noise_has_its_deviation_and_belongs_to_the_sample() -> None:
    grey = torch.full((4, 3, 64, 64), 0.5)
    found = noisy(grey, 0.05, streams()).images
    assert float((found - 0.5).std()) == pytest.approx(0.05, rel=0.03)
    alone = noisy(grey[2:3], 0.05, SampleGenerator(1, IDS[2:3])).images
    assert torch.equal(alone[0], found[2])
    assert noisy(IMAGES, 1.0, streams()).images.min() >= 0


def test_a_relative_change_is_entry_by_entry() -> None:
    before, after = torch.tensor([[1.0, -2, 4]]), torch.tensor([[1.5, -1, 4]])
    expected = np.sqrt(0.5**2 + 0.5**2)
    assert float(relative_change(before, after)) == pytest.approx(expected)
    assert float(relative_change(1e6 * before, 1e6 * after)) == pytest.approx(expected)
    zero = torch.tensor([[0.0, -2, 4]])
    assert float(relative_change(zero, after)) == pytest.approx(1.5 / 4e-6, rel=1e-3)


def test_the_worst_ratio_is_taken_over_samples_that_keep_the_prediction() -> None:
    maps = [torch.tensor([1.0, 1, 1]), torch.tensor([100.0, 100, 1])]
    changes = [torch.tensor([0.1, 0.1, 1]), torch.tensor([0.01, 0.01, 1])]
    kept = [torch.tensor([True, True, False]), torch.tensor([False, True, False])]
    found = worst_stability(maps, changes, kept)
    assert found[:2].tolist() == pytest.approx([1, 4])
    assert found[2].isnan()


def test_the_representation_is_what_enters_the_last_layer() -> None:
    network = BasicCNN(num_classes=4).eval()
    inside, logits = representations(network, IMAGES)
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(IMAGES), pre_logits=True)
    torch.testing.assert_close(inside, expected)
    torch.testing.assert_close(network.fc(inside), logits)
    assert not network.fc._forward_pre_hooks
    with pytest.raises(UserError, match="linear or convolutional"):
        representations(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), IMAGES)


def measured(source: Source, **settings: object) -> pd.DataFrame:
    torch.manual_seed(0)
    network = BasicCNN(num_classes=10).eval()
    index = torch.arange(4)
    batch = Batch(IMAGES, index, index, IDS)
    model = Engine().prepare(network, IMAGES)
    context = Context(model, Method("any", source, ("original",)), Shapes(name="shapes"), "test", 1)
    found = found_maps(context.maps_of(IMAGES, IDS))
    evaluator = Stability(**settings)  # type: ignore[arg-type]
    return measured_rows(evaluator, batch, "any", evaluator.measure(context, batch, found))


def test_an_equivariant_map_is_perfectly_stable_once_shifts_and_flips_are_undone() -> None:
    rows = measured(sobel, perturbations=["shift", "flip"], samples=2)
    flips = rows[rows["perturbation"] == "flip"]
    np.testing.assert_allclose(flips[["spearman", "ssim", "hog", "top_k"]], 1, atol=1e-6)
    # The outermost edges of a shifted image are of the repeated border: one pixel beyond.
    shifts = rows[rows["perturbation"] == "shift"]
    assert (shifts["spearman"] > 0.9).all()
    assert rows["log_input_stability"].isna().all()


def test_a_map_that_ignores_the_image_is_stable_in_place_only() -> None:
    rows = measured(random_map, perturbations=["gaussian", "jpeg", "flip"], samples=2)
    means = rows.groupby("perturbation", observed=True)["spearman"].mean()
    assert means[["gaussian", "jpeg"]].tolist() == pytest.approx([1, 1])
    assert abs(means["flip"]) < 0.1


def test_relative_stability_of_a_row_is_that_of_the_definition() -> None:
    rows = measured(gradient, perturbations=["jpeg"], quality=80)
    torch.manual_seed(0)
    network = BasicCNN(num_classes=10).eval().double()
    images = IMAGES.double()
    changed = compressed(IMAGES, 80).images.double()
    targets = network(images).argmax(1)
    before, after = (gradient(network, x).of(targets).abs().amax(1) for x in (images, changed))
    for place, row in enumerate(rows.itertuples()):
        if not row.agrees:
            assert np.isnan(row.log_input_stability)
            continue
        top = ((before - after) / before)[place].norm()
        pixels = ((images - changed) / images)[place].norm()
        logits = (network(images) - network(changed))[place].norm()
        assert row.log_input_stability == pytest.approx(float((top / pixels).log10()), abs=1e-2)
        expected = float((top / logits.clamp_min(1e-6)).log10())
        assert row.log_output_stability == pytest.approx(expected, abs=2e-2)
    assert rows["agrees"].any()


def test_nothing_to_perturb_is_refused() -> None:
    with pytest.raises(UserError, match="perturbations"):
        Stability(perturbations=[])


def test_maps_are_compared_where_they_were() -> None:
    plain = Perturbed(IMAGES)
    assert plain.inner(plain.restored(IMAGES[:, 0])).shape == (4, 32, 40)


def test_a_shift_out_of_the_image_is_refused() -> None:
    data = Shapes(name="shapes")
    model = Engine().prepare(BasicCNN(num_classes=10).eval(), torch.rand(2, *data.input_shape))
    context = Context(model, Method("any", gradient, ("original",)), data, "test", 1)
    with pytest.raises(UserError, match="less than half of the images' shorter side, 32, but got"):
        Stability(pixels=16).check(context, "stability")
    Stability(pixels=15).check(context, "stability")
    with pytest.raises(
        UserError, match=r"`evaluator\.stability\.degrees` to leave some of the images"
    ):
        Stability(degrees=80).check(context, "stability")
    Stability(degrees=80, perturbations=["flip"]).check(context, "stability")
    Stability(pixels=16, perturbations=["flip"]).check(context, "stability")
