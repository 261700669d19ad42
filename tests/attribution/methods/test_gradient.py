"""The plain gradient: values against closed forms and Captum, cost, and what is left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from captum.attr import Saliency
from torch import Tensor, nn

from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.errors import UserError


def small_net(classes: int = 5, channels: int = 3, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=inplace),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(96, classes),
    )


def test_linear_model_gives_its_weights() -> None:
    weights = torch.randn(4, 2, 3, 5, generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(nn.Flatten(), nn.Linear(30, 4))
    model[1].weight.data = weights.flatten(1)
    field = gradient(model, torch.rand(3, 2, 3, 5))
    torch.testing.assert_close(field.of(torch.tensor([2, 0, 3])), weights[[2, 0, 3]])


def test_agrees_with_captum() -> None:
    model = small_net().eval()
    images, targets = torch.rand(4, 3, 9, 7), torch.tensor([0, 4, 2, 2])
    field = gradient(model, images)
    expected = Saliency(model).attribute(images.clone(), target=targets, abs=False)
    torch.testing.assert_close(field.of(targets), expected)
    torch.testing.assert_close(field.logits, model(images).detach())


def test_central_differences_in_float64() -> None:
    model = small_net().double()
    images = torch.rand(1, 3, 5, 4, dtype=torch.float64)
    found = gradient(model, images).of(torch.tensor([3]))
    model.eval()
    for place in [(0, 0, 0), (1, 2, 3), (2, 4, 1)]:
        step = torch.zeros_like(images)
        step[0][place] = 1e-6
        rise = (model(images + step) - model(images - step))[0, 3] / 2e-6
        assert found[0][place].item() == pytest.approx(rise.item(), abs=1e-7)


def test_model_and_images_are_left_as_they_were() -> None:
    model = small_net()
    model.train()
    model[1].eval()
    model[6].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    images = torch.rand(2, 3, 8, 8)
    kept, state = images.clone(), torch.get_rng_state()
    gradient(model, images).of(torch.tensor([0, 1]))
    assert model.training
    assert model[3].training
    assert not model[1].training
    assert [p.requires_grad for p in model.parameters()] == [True] * 4 + [False, True]
    assert all(p.grad is None for p in model.parameters())
    assert all(not m._forward_hooks and not m._backward_hooks for m in model.modules())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    torch.testing.assert_close(images, kept, rtol=0, atol=0)
    assert not images.requires_grad
    assert torch.equal(torch.get_rng_state(), state)


def test_model_is_restored_when_it_fails() -> None:
    model = small_net().train()
    with pytest.raises(RuntimeError, match="channels"):
        gradient(model, torch.rand(2, 1, 8, 8))
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_train_mode_gives_the_eval_gradient() -> None:
    model, images = small_net(), torch.rand(2, 3, 8, 8)
    classes = torch.tensor([1, 2])
    torch.testing.assert_close(
        gradient(model.train(), images).of(classes), gradient(model.eval(), images).of(classes)
    )


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(mode: type) -> None:
    model, images, classes = small_net(), torch.rand(2, 3, 8, 8), torch.tensor([1, 2])
    expected = gradient(model, images).of(classes)
    with mode():
        found = gradient(model, images * 1).of(classes)
    torch.testing.assert_close(found, expected)


def test_inplace_relu_also_as_the_first_layer() -> None:
    plain = nn.Sequential(nn.ReLU(), *small_net())
    inplace = nn.Sequential(nn.ReLU(inplace=True), *small_net(inplace=True))
    images, classes = torch.rand(2, 3, 8, 8) - 0.5, torch.tensor([1, 2])
    kept = images.clone()
    torch.testing.assert_close(
        gradient(inplace, images).of(classes), gradient(plain, images).of(classes)
    )
    torch.testing.assert_close(images, kept, rtol=0, atol=0)


def test_one_forward_and_one_backward_per_call() -> None:
    counts = {"forward": 0, "backward": 0}

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, images: Tensor) -> Tensor:
            counts["forward"] += 1
            return images.clone()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            counts["backward"] += 1
            return grad

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net()

        def forward(self, images: Tensor) -> Tensor:
            return self.net(Counted.apply(images))

    field = gradient(Net(), torch.rand(2, 3, 8, 8))
    assert counts == {"forward": 1, "backward": 0}
    field.of(torch.tensor([0, 1]))
    field.of(torch.tensor([1, 2]))
    assert counts == {"forward": 1, "backward": 2}


def test_weight_gradients_are_never_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every parameter frozen, the graph of the logits reaches no parameter at all."""
    model = small_net()
    field = gradient(model, torch.rand(2, 3, 8, 8))
    leaves, edges = set(), [field._scores.grad_fn]  # type: ignore[attr-defined]
    while edges:
        node = edges.pop()
        leaves.add(id(getattr(node, "variable", None)))
        edges += [following for following, _ in node.next_functions if following is not None]
    assert id(field._start) in leaves  # type: ignore[attr-defined]
    assert not leaves & {id(p) for p in model.parameters()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_come_back_in_kind(dtype: torch.dtype) -> None:
    model, images, classes = small_net(), torch.rand(2, 3, 8, 8), torch.tensor([1, 2])
    found = gradient(model, images.to(dtype)).of(classes)
    assert found.dtype == dtype
    expected = gradient(model, images).of(classes)
    torch.testing.assert_close(found.float(), expected, atol=1e-3, rtol=1e-2)


def test_logits_that_ignore_the_image_have_no_gradient() -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.ones(len(images), 3)

    found = gradient(Constant(), torch.rand(2, 3, 4, 4)).of(torch.tensor([0, 1]))
    torch.testing.assert_close(found, torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize("shape", [(1, 6, 11), (3, 11, 6), (4, 5, 5)])
def test_non_square_and_any_number_of_channels(shape: tuple[int, int, int]) -> None:
    model = small_net(channels=shape[0])
    assert gradient(model, torch.rand(2, *shape)).of(torch.tensor([0, 1])).shape == (2, *shape)


def test_an_image_does_not_depend_on_its_batch() -> None:
    model, images = small_net().train().double(), torch.rand(5, 3, 8, 8, dtype=torch.float64)
    classes = torch.tensor([0, 1, 2, 3, 4])
    together = gradient(model, images).of(classes)
    for row in range(5):
        alone = gradient(model, images[row : row + 1]).of(classes[row : row + 1])
        torch.testing.assert_close(alone[0], together[row])


def test_whole_number_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"Expected `images` to be a floating tensor.*uint8"):
        gradient(small_net(), torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


def test_an_answer_that_is_not_logits_is_refused() -> None:
    with pytest.raises(UserError, match=r"Expected `model` to return logits of shape \(2, K\)"):
        gradient(nn.Conv2d(3, 2, 3), torch.rand(2, 3, 8, 8))
