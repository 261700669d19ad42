"""Fields of one image beside those of the same image in a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import saliency_lab as sl
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.attribution.methods.guided_backprop import guided_backprop
from saliency_lab.errors import UserError


class ConvolutionalTokens(nn.Module):
    """A convolution with a batch norm, whose map is the tokens of a transformer."""

    def __init__(self, *, functional: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.BatchNorm2d(8)
        nn.init.uniform_(self.norm.weight, 0.5, 2)
        nn.init.normal_(self.norm.running_mean, std=0.1)
        nn.init.uniform_(self.norm.running_var, 0.2, 2)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 4)
        self.functional = functional

    def forward(self, images: Tensor) -> Tensor:
        features, norm = self.stem(images), self.norm
        if self.functional:
            moments = (norm.running_mean, norm.running_var)
            features = F.batch_norm(features, *moments, norm.weight, norm.bias)
        else:
            features = norm(features)
        return self.head(self.block(features.flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("source", [gradient, guided_backprop])
def test_an_image_has_the_field_that_it_has_in_a_batch(source, functional: bool) -> None:
    model = ConvolutionalTokens(functional=functional).double().eval()
    images = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    classes = torch.tensor([2, 0, 1])
    expected = source(model, images).of(classes)
    for row in range(3):
        one = slice(row, row + 1)
        torch.testing.assert_close(source(model, images[one]).of(classes[one]), expected[one])


@pytest.mark.parametrize("functional", [False, True])
def test_central_differences_of_one_image(functional: bool) -> None:
    model = ConvolutionalTokens(functional=functional).double().eval()
    image = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    found = gradient(model, image).of(torch.tensor([3]))
    for place in [(0, 0, 0), (1, 6, 9), (2, 15, 1)]:
        step = torch.zeros_like(image)
        step[0][place] = 1e-6
        with torch.no_grad():
            rise = (model(image + step) - model(image - step))[0, 3] / 2e-6
        assert found[0][place].item() == pytest.approx(rise.item(), abs=1e-8)


@pytest.mark.parametrize("functional", [False, True])
def test_one_image_is_enough_to_take_the_fast_copy(functional: bool) -> None:
    model = ConvolutionalTokens(functional=functional).eval()
    images = torch.rand(3, 3, 16, 16)
    fast = sl.prepared(model, images[:1])
    assert fast.reason is None
    torch.testing.assert_close(
        sl.explain(fast, images[:1], "original", targets=1)["original"],
        sl.explain(model, images, "original", targets=1)["original"][:1],
    )


def test_classes_of_a_field_are_whole_numbers_or_one_for_all() -> None:
    model = ConvolutionalTokens(functional=False).eval()
    field = gradient(model, torch.rand(2, 3, 16, 16))
    expected = field.of(torch.tensor([3, 3]))
    for classes in (3, np.int64(3), [3, 3], (3, 3), np.array([3, 3], "u1"), torch.tensor(3)):
        assert torch.equal(field.of(classes), expected)
    for wrong in (None, [3], 3.0, "cat", [True, True]):
        with pytest.raises(UserError, match="Expected `classes` to be 2 whole numbers, one class"):
            field.of(wrong)
    count = field.logits.shape[1]
    for outside in (-1, count, [0, count]):
        with pytest.raises(
            UserError, match=rf"Expected `classes` to be in \[0, {count}\), but got"
        ):
            field.of(outside)


def test_a_gradient_of_an_array() -> None:
    model = ConvolutionalTokens(functional=False).eval()
    images, classes = torch.rand(2, 3, 16, 16), torch.tensor([0, 3])
    found = gradient(model, images.numpy()).of(classes)  # type: ignore[arg-type]  # also taken
    assert torch.equal(found, gradient(model, images).of(classes))
    with pytest.raises(UserError, match=r"`images` to be a tensor or NumPy array .*, but got list"):
        gradient(model, [images[0]])  # type: ignore[arg-type]  # refused
