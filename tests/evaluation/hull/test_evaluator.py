"""The evaluator's rows against masks and scores that are made here step by step."""

from __future__ import annotations

import copy
import dataclasses
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from saliency_lab.attribution.core.importance import important_pixels
from saliency_lab.attribution.methods.gad import SupportModels, gad
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.attribution.methods.guided_backprop import deconvnet, guided_backprop
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import measured_rows
from saliency_lab.evaluation.context import Method
from saliency_lab.evaluation.hull.evaluator import MASKS, Hull, _ratio
from saliency_lab.evaluation.hull.hulls import SHAPES, convex_hulls
from saliency_lab.evaluation.hull.tables import comparison_table, mask_table
from saliency_lab.evaluation.loop import with_fast_support
from saliency_lab.inference.convolution import FrozenConv


def rows_of(evaluator, context, batch, maps):
    evaluator.check(context, "hull")
    return measured_rows(evaluator, batch, "gad", evaluator.measure(context, batch, maps))


def gradient_map(network, image, target):
    image = image[None].clone().requires_grad_(True)
    network(image)[0, target].backward()
    return image.grad[0].abs().amax(0)


def upper_half(values):
    """By sorting in Python: the half of the pixels with the largest values."""
    flat = values.flatten().tolist()
    first = sorted(range(len(flat)), key=lambda place: (-flat[place], place))[: len(flat) // 2]
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[first] = True
    return mask.view(values.shape) & (values > 0)


def test_masks_and_scores_are_those_of_the_definition(measured, network):
    context, batch, maps = measured()
    rows = rows_of(Hull(), context, batch, maps)
    assert len(rows) == 4 * len(MASKS)
    networks = context.method.source.keywords["support"]
    for place, image in enumerate(batch.image):
        target = int(maps.targets[place])
        original = upper_half(gradient_map(network, image, target))
        gad, retrained = original.clone(), original.clone()
        for support in networks.distanced:
            gad &= upper_half(gradient_map(support, image, target))
        for support in networks.retrained:
            retrained &= upper_half(gradient_map(support, image, target))
        expected = {"gad": gad, "supplementary": original & ~gad, "retraining": retrained,
                    "original": original}  # fmt: skip
        assert 0 < gad.sum() < original.sum()
        own = rows[rows["sample_id"] == batch.ids[place]].set_index("mask")
        assert torch.equal(maps.maps["original"][place] > 0, gad)
        for name, mask in expected.items():
            with torch.no_grad():
                intact, blackened = network(torch.stack([image, image * ~mask]))[:, target]
            assert own.loc[name, "pixels"] == mask.sum()
            assert own.loc[name, "relative_sensitivity"] == pytest.approx(
                float((intact - blackened).abs() / mask.sum()), rel=1e-3
            )
        for name in ("random_subset", "top"):
            assert own.loc[name, "pixels"] == gad.sum()
        assert own.loc["random_hull", "pixels"] == own.loc["gad", "hull_pixels"]
        assert own.loc["gad_hull", "pixels"] == own.loc["gad", "hull_pixels"]
        ratio = own["hull_pixels"] / own.loc["original", "hull_pixels"]
        assert np.allclose(own["relative_complexity"], ratio)


@pytest.mark.parametrize("channels", ["sum", "l2"])
def test_all_masks_come_of_the_same_channels(measured, channels):
    """GAD takes the maximum over channels, whatever `view.channels` says."""
    context, batch, maps = measured()
    other = dataclasses.replace(
        context, method=dataclasses.replace(context.method, channels=channels)
    )
    expected, found = (rows_of(Hull(), place, batch, maps) for place in (context, other))
    pd.testing.assert_frame_equal(found, expected)


def test_rows_do_not_depend_on_the_batch(measured):
    context, batch, maps = measured(3)
    whole = rows_of(Hull(), context, batch, maps)
    alone = batch._replace(
        image=batch.image[2:], label=batch.label[2:], index=batch.index[2:], ids=batch.ids[2:]
    )
    only = dataclasses.replace(
        maps,
        maps={"original": maps.maps["original"][2:]},
        targets=maps.targets[2:],
        logits=maps.logits[2:],
    )
    found = rows_of(Hull(), context, alone, only).reset_index(drop=True)
    expected = whole[whole["sample_id"] == "image-2"].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4)


@pytest.mark.onednn
def test_support_models_run_as_the_model_itself_does(network, altered, measured):
    """By one arithmetic, so that a network like the model finds exactly the model's pixels."""
    context, batch, _ = measured()
    other, same = altered(3), copy.deepcopy(network).requires_grad_(False)
    support = SupportModels([same, other, network], [same, same])
    source = partial(gad, base=gradient, support=support)
    method = dataclasses.replace(context.method, source=source)
    fast = with_fast_support(method, context.model, batch.image).source.keywords["support"]
    assert fast.retrained[0] is fast.retrained[1] is fast.distanced[0]
    assert fast.distanced[2] is context.model.model
    for network_before, copied in zip(support.distanced, fast.distanced, strict=True):
        assert any(isinstance(layer, FrozenConv) for layer in copied.modules())
        assert not any(isinstance(layer, FrozenConv) for layer in network_before.modules())
        torch.testing.assert_close(copied(batch.image), network_before(batch.image))
    asked = dataclasses.replace(method, source=partial(source, support=fast.as_control()))
    whole = dataclasses.replace(context, method=asked).maps_of(batch.image, batch.ids)
    base = dataclasses.replace(context, method=dataclasses.replace(method, source=gradient))
    original = base.maps_of(batch.image, batch.ids).maps["original"]
    kept = whole.maps["original"]
    assert torch.equal(kept, torch.where(important_pixels(original), original, 0))


@pytest.mark.parametrize("reads", [guided_backprop, deconvnet])
def test_a_source_that_reads_layers_gets_the_networks_themselves(altered, measured, reads):
    context, batch, _ = measured()
    support = SupportModels([altered(3)])
    method = dataclasses.replace(context.method, source=partial(gad, base=reads, support=support))
    assert with_fast_support(method, context.model, batch.image) is method
    plain = dataclasses.replace(context.method, source=gradient)
    assert with_fast_support(plain, context.model, batch.image) is plain


def test_a_threshold_of_its_own(measured):
    context, batch, maps = measured()
    rows = rows_of(Hull(level=0.1, rule="above"), context, batch, maps)
    original = maps.maps["original"]
    above = original > 0.1 * original.amax((1, 2), keepdim=True)
    gad = rows[rows["mask"] == "gad"]
    assert (gad["pixels"].to_numpy() <= above.sum((1, 2)).numpy()).all()
    assert (gad["pixels"] > 0).all()


def test_methods_without_support_models_are_refused(measured):
    context, _, _ = measured()
    other = dataclasses.replace(context, method=Method("gradient", gradient, ("original",)))
    with pytest.raises(UserError, match="Expected `method` to be gad"):
        Hull().check(other, "hull")


def table_rows():
    """Three images of one class and one of another, one of them without a GAD pixel."""
    found = []
    for image, (label, complexity, pixels, shape) in enumerate(
        [(0, 0.5, 6, "whole"), (0, 1.0, 9, "whole"), (0, 0.0, 0, "empty"), (1, 0.25, 3, "line")]
    ):
        for mask in MASKS:
            gad = mask == "gad"
            found.append({
                "sample_id": f"i{image}", "index": image, "label": label, "method": "gad",
                "view": "original", "mask": mask,
                "relative_complexity": complexity if gad and pixels else np.nan if gad else 1.0,
                "relative_sensitivity": (np.nan if pixels == 0 else 2.0) if gad else 1.5,
                "pixels": pixels if gad else 10, "hull_pixels": 10,
                "hull_shape": SHAPES.index(shape if gad else "whole"),
            })  # fmt: skip
    return pd.DataFrame(found)


def test_degenerate_hulls_and_empty_masks_are_counted():
    table = mask_table(table_rows(), 50).set_index(["label", "mask"])
    first = table.loc[(0, "gad")]
    assert (first["images"], first["measured"]) == (3, 2)
    assert (first["empty"], first["few"], first["line"]) == (1, 0, 0)
    assert (first["smaller"], first["equal"]) == (1, 1)
    assert first["share_smaller"] == 0.5
    assert first["relative_complexity"] == 0.75
    assert table.loc[(1, "gad"), "line"] == 1
    assert table.loc[(-1, "gad"), "images"] == 4
    assert table.loc[(-1, "top"), "measured"] == 4


def test_images_on_which_gad_removes_nothing_count_for_it():
    """Their supplementary mask is empty; without them every RC would be less than 1."""
    rows = table_rows()
    same = (rows["sample_id"] == "i1") & (rows["mask"] == "supplementary")
    rows.loc[same, ["pixels", "relative_complexity", "relative_sensitivity"]] = 0, np.nan, np.nan
    table = mask_table(rows, 50).set_index(["label", "mask"])
    assert table.loc[(0, "gad"), "share_smaller"] == 0.5
    assert table.loc[(0, "gad"), "relative_complexity"] == 0.75
    assert table.loc[(0, "supplementary"), "measured"] == 2
    pairs = comparison_table(rows, 50).set_index(["label", "score", "mask", "against"])
    of = {against: pairs.loc[(0, "relative_complexity", "gad", against)] for against in
          ("supplementary", "top")}  # fmt: skip
    assert (of["supplementary"]["images"], of["supplementary"]["difference"]) == (1, -0.5)
    assert (of["top"]["images"], of["top"]["difference"]) == (2, -0.25)
    said = Hull().facts(rows, rows)["finding"]
    assert "RC < 1 on 66.7% of the images" in said
    assert "without 1 image on which the supplementary mask holds no pixel" in said


def test_masks_without_any_pixel_are_in_no_pair():
    rows = table_rows()
    rows.loc[rows["mask"] == "gad", ["pixels", "relative_complexity", "relative_sensitivity"]] = (
        0, np.nan, np.nan
    )  # fmt: skip
    assert "nothing can be compared" in Hull().facts(rows, rows)["finding"]
    assert comparison_table(rows, 50)["mask"].eq("gad_hull").all()


def test_pairs_are_compared_on_the_same_images():
    table = comparison_table(table_rows(), 50).set_index(["label", "score", "mask", "against"])
    pair = table.loc[(0, "relative_sensitivity", "gad", "random_subset")]
    assert (pair["images"], pair["difference"], pair["share_larger"]) == (2, 0.5, 1.0)
    pair = table.loc[(-1, "relative_complexity", "gad", "top")]
    assert pair["images"] == 3
    assert pair["difference"] == pytest.approx((0.5 + 1.0 + 0.25) / 3 - 1)


def test_the_summary_is_plain_json():
    import json

    rows = table_rows()
    facts = Hull().facts(rows, Hull().image_scores(rows))
    assert "without 1 image on which GAD's mask holds no pixel" in facts["finding"]
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_a_mask_without_pixels_has_no_complexity():
    masks = torch.zeros(3, 6, 6, dtype=torch.bool)
    masks[0, 1:4, 1:4] = masks[1, 0, 0] = True
    whole = torch.tensor([18, 18, 18])
    found = _ratio(convex_hulls(masks), whole)
    assert found[:2].tolist() == [0.5, 1 / 18]
    assert found[2].isnan()
