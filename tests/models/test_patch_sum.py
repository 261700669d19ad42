from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import saliency_lab.models.network  # noqa: F401  (registers patch_sum with timm)
from saliency_lab.attribution.maps import maps
from saliency_lab.attribution.methods.grad_cam import grad_cam
from saliency_lab.errors import UserError
from saliency_lab.inference.engine import Engine
from saliency_lab.models.construction import built_network
from saliency_lab.models.patch_sum import PatchSum

COMPONENT = {"_target_": "saliency_lab.models.patch_sum.patch_sum_network", "name": "patch_sum"}


def of_many_minds(model: nn.Module) -> nn.Module:
    """In float64, with batch norms that are no identities, in eval mode."""
    model = model.double()
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return model.eval()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return of_many_minds(PatchSum(5, patch=8, width=8, depth=2))


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_logits_are_the_mean_of_what_each_patch_gives_alone(model, images):
    alone = [
        model(images[:, :, top : top + 8, left : left + 8])
        for top in range(0, 32, 8)
        for left in range(0, 24, 8)
    ]
    torch.testing.assert_close(model(images), torch.stack(alone).mean(0), rtol=1e-12, atol=1e-13)
    grid = model.patch_logits(images)
    assert grid.shape == (2, 5, 4, 3)
    torch.testing.assert_close(grid.flatten(2), torch.stack(alone, 2), rtol=1e-12, atol=1e-13)
    assert grid.std((2, 3)).min() > 1e-4


def test_a_change_of_one_patch_adds_up_with_a_change_of_another(model, images):
    def logits(*places):
        changed = images.clone()
        for top, left in places:
            changed[:, :, top : top + 8, left : left + 8] = 0.3
        return model(changed)

    left, right = (0, 0), (0, 8)  # neighbours, where a convolution would mix
    together = logits(left, right) - logits()
    torch.testing.assert_close(together, logits(left) + logits(right) - 2 * logits())


def test_the_order_of_patches_does_not_matter(model, images):
    swapped = torch.cat([images[:, :, 8:16], images[:, :, :8], images[:, :, 16:]], 2)
    torch.testing.assert_close(model(swapped), model(images))


def test_parameters_add_up_layer_by_layer():
    layers = [(3, 8, 3), (8, 16, 3), (16, 32, 2), (32, 32, 1)]
    expected = sum(a * b * side**2 + 2 * b for a, b, side in layers) + 32 * 7 + 7
    found = timm.create_model("patch_sum", num_classes=7, patch=8, width=8, depth=2)
    assert sum(p.numel() for p in found.parameters()) == expected


@pytest.mark.parametrize(("side", "patch"), [(32, 8), (64, 8), (224, 28)])
def test_the_size_of_a_patch_follows_the_image(side, patch):
    found = built_network({**COMPONENT, "width": 4}, 3, (3, side, side))
    assert found.patch == patch


def test_what_does_not_fit_is_said():
    with pytest.raises(UserError, match="divide images of 30×30, but got 8"):
        built_network(COMPONENT, 3, (3, 30, 30))
    with pytest.raises(UserError, match=r"multiple of 8 for model\.depth=3, but got 4"):
        built_network({**COMPONENT, "patch": 4, "depth": 3}, 3, (3, 32, 32))


def test_the_engines_copy_is_folded_and_agrees(model):
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    prepared = Engine().prepare(model.float(), images)
    assert prepared.reason is None
    assert not any(isinstance(m, nn.BatchNorm2d) for m in prepared.model.modules())
    torch.testing.assert_close(prepared.logits(images), model(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prepared.logits(images[:5]), model(images[:5]), rtol=1e-4, atol=1e-5)


def test_grad_cam_sees_the_grid_of_patches(model):
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    targets = torch.tensor([1, 4])
    features = model.forward_features(images)
    weights = model.fc.weight[targets] / 16
    expected = torch.einsum("bkyx,bk->byx", features, weights).relu()
    expected = nn.functional.interpolate(expected[:, None], size=32, mode="bilinear")[:, 0]
    found = grad_cam(model, images, targets)
    torch.testing.assert_close(found, expected.float())


def test_gradients_of_all_views(model, images):
    assert maps(model, images, names="all").maps["active"].shape == (2, 32, 24)


def test_timms_face():
    model = timm.create_model("patch_sum", num_classes=0, in_chans=1, width=4)
    features = model(torch.rand(2, 1, 32, 32))
    assert features.shape == (2, model.num_features)
    model.reset_classifier(4)
    assert model.get_classifier().out_features == 4
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 4)
