"""Folded and packed copies compute what the model computes, on real architectures."""

from __future__ import annotations

import operator

import pytest
import timm
import torch
from torch import Tensor, nn

from saliency_lab.inference.convolution import FrozenConv
from saliency_lab.inference.folding import folded_copy, packed_copy
from saliency_lab.inference.pooled import PooledConv

pytestmark = pytest.mark.onednn


def trained_looking(name: str) -> nn.Module:
    """A network whose batch norms have statistics and scales of their own."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=6)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.running_mean, -0.3, 0.3)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return model.eval()


def input_gradient(model: nn.Module, images: Tensor) -> Tensor:
    images = images.clone().requires_grad_(True)
    return torch.autograd.grad(model(images)[:, 2].sum(), images)[0]


@pytest.mark.parametrize(
    "name", ["resnet18", "densenet121", "mobilenetv3_small_050", "tf_efficientnet_lite0"]
)
def test_copies_agree_in_logits_and_gradients(name: str) -> None:
    model, images = trained_looking(name), torch.rand(2, 3, 64, 64)
    folded = folded_copy(model)
    packed = packed_copy(folded, images)
    expected, gradient = model(images).detach(), input_gradient(model, images)
    for copy in (folded, packed):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(copy(images), expected, atol=1e-5 * scale, rtol=1e-5)
        difference = (input_gradient(copy, images) - gradient).norm() / gradient.norm()
        assert difference < 1e-3


@pytest.mark.parametrize("eps", [1e-3, 0.3])
@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_keeps_its_own_eps(eps: float, affine: bool) -> None:
    """Small variances, where eps is what matters."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6, eps=eps, affine=affine)
    nn.init.uniform_(norm.running_var, 1e-4, 1e-2)
    nn.init.uniform_(norm.running_mean, -0.1, 0.1)
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), norm, nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)
    ).eval()
    images = torch.rand(2, 3, 8, 8)
    conv, mean, var = model[0](images), norm.running_mean, norm.running_var
    by_hand = (conv - mean[:, None, None]) / (var[:, None, None] + eps).sqrt()
    if affine:
        by_hand = by_hand * norm.weight[:, None, None] + norm.bias[:, None, None]
    expected = model[4](by_hand.relu().flatten(1)).detach()
    folded = folded_copy(model)
    for copy in (folded, packed_copy(folded, images)):
        torch.testing.assert_close(copy(images), expected, atol=1e-4, rtol=1e-4)
        difference = input_gradient(copy, images) - input_gradient(model, images)
        assert difference.norm() < 1e-4 * input_gradient(model, images).norm()


def test_everything_of_a_resnet_is_folded_packed_and_fused() -> None:
    model, images = trained_looking("resnet18"), torch.rand(2, 3, 32, 32)
    packed = packed_copy(folded_copy(model), images)
    called = [node for node in packed.graph.nodes if node.op == "call_module"]
    kinds = [type(packed.get_submodule(node.target)) for node in called]
    assert kinds.count(FrozenConv) == 19
    assert kinds[0] is PooledConv
    assert not {nn.BatchNorm2d, nn.Conv2d, nn.MaxPool2d, nn.ReLU} & set(kinds)
    assert all("add" not in str(node.target) for node in packed.graph.nodes)


def test_pooling_first_has_the_same_gradient_exactly() -> None:
    """Ties and windows without a positive value are where the order could matter."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(64, 3)
    ).eval()
    model[0].bias.data = torch.tensor([-2.0, -1.0, 0.0, 1.0])
    images = torch.randint(-2, 3, (8, 1, 8, 8)).float()
    packed = packed_copy(folded_copy(model), images)
    torch.testing.assert_close(packed(images), model(images), atol=1e-6, rtol=1e-6)
    found, expected = input_gradient(packed, images), input_gradient(model, images)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert (expected == 0).any()


def test_padding_and_activated_norms_of_efficientnet_are_folded_too() -> None:
    """Its padding depends on the image's size, which tracing cannot see."""
    model = trained_looking("tf_efficientnet_lite0")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    folded = folded_copy(model)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    packed = packed_copy(folded, torch.rand(2, 3, 64, 64))
    assert not any("batch_norm" in str(node.target) for node in packed.graph.nodes)
    found = [layer for layer in packed.modules() if isinstance(layer, FrozenConv)]
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert len(found) == len(convolutions) == 49
    # Images of odd sizes are padded differently on each side.
    for size in (64, 65, 71):
        images = torch.rand(2, 3, size, size)
        expected = model(images)
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(packed(images), expected, atol=1e-5 * scale, rtol=1e-5)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_layer_kept_whole_inside_another_leaves_the_rest_to_be_traced() -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if bool((x.sum() > 0).item()) else x

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(Inner()))
            self.second = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x)).mean((2, 3))

    model, images = Outer().eval(), torch.rand(2, 3, 8, 8)
    copied = folded_copy(model)
    torch.testing.assert_close(copied(images), model(images))
    whole = [str(node.target) for node in copied.graph.nodes if node.op == "call_module"]
    assert whole == ["first.0", "first.1.0", "second.0", "second.1"]


def test_the_model_is_left_alone() -> None:
    model = trained_looking("resnet18").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kinds = [type(layer) for layer in model.modules()]
    copy = packed_copy(folded_copy(model), torch.rand(2, 3, 32, 32))
    model.conv1.weight.data.zero_()
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert kinds == [type(layer) for layer in model.modules()]
    before.pop("conv1.weight")
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value)
    # The copy shares nothing: it did not follow when the model's stem was cleared.
    assert copy(torch.rand(1, 3, 32, 32)).std() > 0


class Doubled(nn.Module):
    """A convolution that is used twice, its output read twice, an addition that broadcasts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.shift = nn.Parameter(torch.randn(1, 4, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        first = self.conv(images)
        second = self.relu(first + self.shift)
        third = self.conv(second) + first
        third = self.relu(images + self.conv(third))
        return torch.flatten(third + third, 1).sum(1, keepdim=True)


def test_shared_layers_and_broadcast_additions() -> None:
    torch.manual_seed(0)
    model, images = Doubled().eval(), torch.randn(2, 4, 6, 6)
    packed = packed_copy(folded_copy(model), images)
    torch.testing.assert_close(packed(images), model(images), atol=1e-3, rtol=1e-5)


def test_an_addition_of_another_shape_stays_an_addition() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)
            self.relu = nn.ReLU()

        def forward(self, images: Tensor) -> Tensor:
            pooled = images.mean((2, 3), keepdim=True)
            return self.relu(self.conv(images) + pooled).flatten(1)

    torch.manual_seed(0)
    model, images = Gated().eval(), torch.randn(2, 4, 6, 6)
    packed = packed_copy(folded_copy(model), images)
    additions = [node for node in packed.graph.nodes if node.target is operator.add]
    assert len(additions) == 1
    torch.testing.assert_close(packed(images), model(images), atol=1e-5, rtol=1e-5)


def test_a_layer_with_a_path_of_its_own_is_kept_whole() -> None:
    class Padded(nn.Module):
        """As the head of timm's VGG: what it does depends on the size of its input."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(5, 6, 7)

        def forward(self, images: Tensor) -> Tensor:
            if images.shape[-1] < 7:
                images = nn.functional.adaptive_avg_pool2d(images, 7)
            return self.conv(images)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), Padded(), nn.Flatten())
    model, images = model.eval(), torch.rand(2, 3, 6, 6)
    packed = packed_copy(folded_copy(model), images)
    kinds = [type(layer) for layer in packed.modules()]
    assert FrozenConv in kinds
    assert Padded in kinds
    torch.testing.assert_close(packed(images), model(images), atol=1e-5, rtol=1e-5)


def test_a_path_that_depends_on_the_image_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.sum((2, 3)) if images.mean() > 0.5 else images.amax((2, 3))

    with pytest.raises(torch.fx.proxy.TraceError):
        folded_copy(Branching())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (IndexError("no such\ndimension"), "^no such$"),
        (AssertionError(), "^AssertionError$"),
        (Exception("x" * 999), "^x{200}$"),
    ],
)
def test_whatever_a_forward_raises_it_cannot_be_traced(error: Exception, reason: str) -> None:
    class Particular(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            if not isinstance(images, Tensor):
                raise error
            return images.mean((2, 3))

    with pytest.raises(torch.fx.proxy.TraceError, match=reason):
        folded_copy(Particular())


def test_the_typical_input_is_left_alone() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.conv(images.sub_(0.5)).mean((2, 3))

    images = torch.rand(2, 3, 8, 8)
    before = images.clone()
    packed_copy(folded_copy(InPlace().eval()), images)
    assert torch.equal(images, before)


class Forked(nn.Module):
    """A ReLU whose output goes to a max-pool and elsewhere; a convolution that reflects."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        features = self.relu(self.first(images))
        pooled = self.second(self.pool(features))
        return torch.cat([pooled.flatten(1), features.flatten(1)], 1)


def test_what_may_not_be_reordered_or_packed_is_left_as_it_is() -> None:
    torch.manual_seed(0)
    model, images = Forked().eval(), torch.randn(2, 3, 8, 8)
    packed = packed_copy(folded_copy(model), images)
    torch.testing.assert_close(packed(images), model(images), atol=1e-5, rtol=1e-5)
    assert (model(images)[:, 64:] >= 0).all()
    torch.testing.assert_close(
        input_gradient(packed, images), input_gradient(model, images), atol=1e-5, rtol=1e-5
    )
