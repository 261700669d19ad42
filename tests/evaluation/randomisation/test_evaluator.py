"""Randomisation rows of a small network, and Quantus on the same models where it is installed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from saliency_lab.attribution.core.sources import Source
from saliency_lab.attribution.methods.controls import random_map, sobel
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.data.batch import Batch
from saliency_lab.data.shapes import Shapes
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import measured_rows
from saliency_lab.evaluation.context import Context, Method, found_maps
from saliency_lab.evaluation.randomisation.complexity import histogram_entropy, relative_rise
from saliency_lab.evaluation.randomisation.evaluator import Randomisation
from saliency_lab.evaluation.randomisation.redrawing import Mixtures, layers, redrawn
from saliency_lab.evaluation.randomisation.similarity import spearman
from saliency_lab.inference.engine import Engine
from saliency_lab.models.basic_cnn import BasicCNN

IMAGES = 5
LAYERS = 11
VALUES = ["spearman", "pearson", "ssim", "hog", "top_k", "entropy_rise"]


@pytest.fixture(scope="module")
def network() -> BasicCNN:
    torch.manual_seed(3)
    return BasicCNN(num_classes=10).eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    data = Shapes(name="shapes")
    pixels = torch.rand(IMAGES, *data.input_shape, generator=torch.Generator().manual_seed(0))
    index = torch.arange(IMAGES)
    return Batch(pixels, index % 10, index, [f"test/{i}" for i in range(IMAGES)])


def context_of(network: BasicCNN, batch: Batch, source: Source, views: Sequence[Any]) -> Context:
    model = Engine(frozen_copy=False).prepare(network, batch.image)
    method = Method("any", source, tuple(views))
    return Context(model, method, Shapes(name="shapes"), "test", 42)


def rows_of(
    evaluator: Randomisation,
    network: BasicCNN,
    batch: Batch,
    source: Source = gradient,
    views: Sequence[Any] = ("original",),
) -> pd.DataFrame:
    context = context_of(network, batch, source, views)
    evaluator.check(context, "randomisation")
    found = found_maps(context.maps_of(batch.image, batch.ids))
    return measured_rows(evaluator, batch, "any", evaluator.measure(context, batch, found))


@pytest.fixture(scope="module")
def measured(network: BasicCNN, batch: Batch) -> pd.DataFrame:
    before = copy.deepcopy(network.state_dict())
    rows = rows_of(Randomisation(), network, batch, views=("original", "active"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(parameter.grad is not None for parameter in network.parameters())
    return rows


def test_every_mode_has_a_row_per_layer_draw_and_view(measured: pd.DataFrame) -> None:
    counts = measured.groupby("mode", observed=True).size()
    per_step = IMAGES * 2 * 2
    assert counts.to_dict() == {
        "full": per_step,
        **dict.fromkeys(("cascading", "independent", "bottom_up"), LAYERS * per_step),
    }
    assert measured[VALUES].notna().all(axis=None)
    top = measured[measured["mode"] == "cascading"].query("step == 1")["layer"].unique()
    assert list(top) == ["fc"]
    bottom = measured[measured["mode"] == "bottom_up"].query("step == 1")["layer"].unique()
    assert list(bottom) == ["stem.0"]


def test_ends_and_beginnings_of_the_modes_are_the_same_models(measured: pd.DataFrame) -> None:
    def values(mode: str, step: int) -> Any:
        chosen = measured[(measured["mode"] == mode) & (measured["step"] == step)]
        return chosen.sort_values(["view", "draw", "index"])[VALUES].to_numpy()

    np.testing.assert_array_equal(values("cascading", LAYERS), values("full", LAYERS))
    np.testing.assert_array_equal(values("bottom_up", LAYERS), values("full", LAYERS))
    np.testing.assert_array_equal(values("cascading", 1), values("independent", 1))
    np.testing.assert_array_equal(values("bottom_up", 1), values("independent", LAYERS))
    assert not np.array_equal(values("cascading", 2), values("independent", 2))


def test_a_row_is_the_similarity_to_the_map_of_the_mixed_model(
    network: BasicCNN, batch: Batch, measured: pd.DataFrame
) -> None:
    found = layers(network, batch.image)
    mixed = Mixtures(network, redrawn(network, 42, 1)).model(found[-3:])
    targets = network(batch.image).argmax(1)

    def shown(model: torch.nn.Module) -> torch.Tensor:
        pixels = batch.image.clone().requires_grad_()
        logits = model(pixels).gather(1, targets[:, None]).sum()
        return torch.autograd.grad(logits, pixels)[0].abs().amax(1)

    before, after = shown(network), shown(mixed)
    rows = measured.query("mode == 'cascading' and step == 3 and draw == 1 and view == 'original'")
    np.testing.assert_allclose(rows["spearman"], spearman(before, after), atol=1e-5)
    rise = histogram_entropy(after) / histogram_entropy(before) - 1
    # A pixel at the edge of a bin may be counted on either side of it.
    np.testing.assert_allclose(rows["entropy_rise"], rise, atol=5e-3)


@pytest.mark.parametrize("source", [sobel, random_map])
def test_a_map_that_does_not_ask_the_model_fails(
    network: BasicCNN, batch: Batch, source: Source
) -> None:
    evaluator = Randomisation(modes=["cascading"], draws=1, steps=3, noisy_copies=2)
    rows = rows_of(evaluator, network, batch, source)
    np.testing.assert_allclose(rows[VALUES[:-1]], 1)
    assert (rows["entropy_rise"] == 0).all()
    facts = evaluator.facts(rows, evaluator.image_scores(rows))
    assert [(row["variant"], row["verdict"]) for row in facts["gate"]] == [
        ("plain", "failed"),
        ("smooth", "failed"),
    ]
    assert facts["thresholds"] == {"passed_below": 0.3, "failed_above": 0.5}


def test_the_smooth_variant_compares_averaged_maps(network: BasicCNN, batch: Batch) -> None:
    evaluator = Randomisation(modes=[], draws=1, noisy_copies=3, noise=0.2)
    rows = rows_of(evaluator, network, batch)
    context = context_of(network, batch, gradient, ("original",))
    streams = context.generator(batch.ids, "randomisation")
    spread = 0.2 * (batch.image.amax((1, 2, 3)) - batch.image.amin((1, 2, 3)))[:, None, None, None]
    targets = network(batch.image).argmax(1)
    noisy = [batch.image + spread * streams.normal(*batch.image.shape[1:]) for _ in range(3)]
    everything = layers(network, batch.image)
    mixed = Mixtures(network, redrawn(network, 42, 0)).model(everything)
    means = [
        sum(gradient(model, images).of(targets).abs().amax(1) for images in noisy)
        for model in (network, mixed)
    ]
    smooth = rows[rows["variant"] == "smooth"]
    np.testing.assert_allclose(smooth["spearman"], spearman(*means), atol=1e-5)


def test_batches_change_nothing(network: BasicCNN, batch: Batch) -> None:
    evaluator = Randomisation(modes=["cascading"], draws=1, steps=2, noisy_copies=1)
    whole = rows_of(evaluator, network, batch)
    part = Batch(batch.image[3:], batch.label[3:], batch.index[3:], batch.ids[3:])
    alone = rows_of(evaluator, network, part)
    same = whole[whole["sample_id"].isin(alone["sample_id"])]
    compared = ["spearman", "pearson", "ssim"]
    np.testing.assert_allclose(same[compared], alone[compared], atol=1e-4)


def test_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises(UserError, match="passed_below"):
        Randomisation(passed_below=0.6, failed_above=0.5)


def test_quantus_agrees_on_its_own_randomised_models(network: BasicCNN, batch: Batch) -> None:
    """Quantus resets one module after another from the same seed, the last registered first.

    Compared are its similarities and entropies on its models. The models themselves differ by
    intent: it resets only modules with `reset_parameters`, in the order of registration, and each
    from the same seed, so that layers of one shape get the same weights.
    """
    quantus = pytest.importorskip("quantus", reason="Quantus is not installed")
    targets = network(batch.image).argmax(1)

    def explained(model: Any, inputs: Any, targets: Any, **_: Any) -> Any:
        images, classes = torch.as_tensor(inputs).float(), torch.as_tensor(targets)
        return gradient(model, images).of(classes).abs().amax(1)[:, None].double().numpy()

    settings = {"disable_warnings": True, "abs": False, "normalise": False}
    given = {
        "model": network, "x_batch": batch.image.numpy(), "y_batch": targets.numpy(),
        "explain_func": explained, "device": "cpu", "channel_first": True,
    }  # fmt: skip
    plain = quantus.MPRT(
        similarity_func=quantus.similarity_func.correlation_spearman, seed=7, **settings
    )(**given)
    efficient = quantus.EfficientMPRT(
        seed=7, layer_order="top_down", skip_layers=False,
        complexity_func_kwargs={"n_bins": 100}, **settings,
    )  # fmt: skip
    rise = efficient(**given)
    wrapper = quantus.helpers.utils.get_wrapped_model(
        model=network, channel_first=True, softmax=False, device="cpu"
    )
    before = explained(network, batch.image, targets)[:, 0]
    count = 0
    for name, model in wrapper.get_random_layer_generator(order="top_down", seed=7):
        after = torch.from_numpy(explained(model, batch.image, targets)[:, 0])
        found = spearman(torch.from_numpy(before), after)
        np.testing.assert_allclose(found, plain[name], atol=1e-5)
        expected = efficient.explanation_scores_by_layer[name]
        np.testing.assert_allclose(histogram_entropy(after), expected, atol=1e-5)
        count += 1
    found = relative_rise(histogram_entropy(after), histogram_entropy(torch.from_numpy(before)))
    np.testing.assert_allclose(found, rise, atol=1e-5)
    assert count == LAYERS


def test_kept_pictures_are_the_maps_after_each_cascading_step(
    network: BasicCNN, batch: Batch
) -> None:
    context = context_of(network, batch, gradient, ("original",))
    found = found_maps(context.maps_of(batch.image, batch.ids))
    kept = Randomisation().example_arrays(context, batch, found, [3, 1])
    assert list(kept) == ["steps:original"]
    assert kept["steps:original"].shape == (2, LAYERS, *batch.image.shape[2:])
    # The second step: both upper layers drawn anew, in a copy made here.
    order = layers(network, batch.image)[::-1]
    mixture = Mixtures(network, redrawn(network, 42, 0)).model(frozenset(order[:2]))
    alone = context.maps_of(batch.image[[3]], [batch.ids[3]], found.targets[[3]], mixture)
    (values,) = alone.maps["original"].double().numpy()
    scaled = 255 * (values - values.min()) / (values.max() - values.min())
    np.testing.assert_allclose(kept["steps:original"][0, 1], scaled, atol=0.51)
    assert not Randomisation(modes=("independent",)).example_arrays(context, batch, found, [0])
