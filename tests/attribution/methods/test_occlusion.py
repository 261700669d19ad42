from __future__ import annotations

import captum.attr
import numpy as np
import pytest
import timm
import torch

from saliency_lab.attribution.methods.occlusion import occlusion
from saliency_lab.errors import UserError

pytestmark = pytest.mark.usefixtures("float64")


def test_linear_model_pixel_by_pixel(linear_net, images, classes):
    found = occlusion(linear_net, images, window=1, stride=1, baseline="white").of(classes)
    expected = (linear_net.weight[classes] * (images - 1)).sum(1, keepdim=True)
    assert torch.allclose(found, expected.expand_as(found))


@pytest.mark.parametrize(("window", "stride"), [(3, 2), (4, 4), (0.375, 0.25), (5, 1), (8, 3)])
def test_the_long_way(window, stride, relu_net, images, classes):
    width = min(8, round(8 * window) if window < 1 else window)
    step = round(8 * stride) if stride < 1 else stride
    starts = sorted({*range(0, 8 - width + 1, step), 8 - width})
    total, cover = np.zeros((3, 8, 8)), np.zeros((8, 8))
    for top in starts:
        for left in starts:
            area = (slice(top, top + width), slice(left, left + width))
            covered = images.clone()
            covered[:, :, area[0], area[1]] = images.mean((2, 3))[:, :, None, None]
            fall = (relu_net(images) - relu_net(covered)).gather(1, classes[:, None])[:, 0]
            total[:, area[0], area[1]] += fall.detach().numpy()[:, None, None]
            cover[area] += 1
    found = occlusion(relu_net, images, window=window, stride=stride).of(classes)
    for channel in range(3):
        np.testing.assert_allclose(found[:, channel], total / cover, atol=1e-12)


@pytest.mark.parametrize(
    ("window", "stride", "said"),
    [
        (9, 3, r"`window` to be at most the 8 pixels of an image's shorter side, but got 9$"),
        (2, 4, r"`stride` to be at most `window`, 2 pixels here, .* but got 4$"),
        (0.25, 0.5, r"2 pixels here, .* but got 0.5, 4 pixels$"),
    ],
)
def test_windows_that_leave_pixels_out_are_refused(window, stride, said, relu_net, images):
    """Pixels that no window covers would be NaN, and one window for all of them a constant."""
    with pytest.raises(UserError, match=said):
        occlusion(relu_net, images, window=window, stride=stride)
    with pytest.raises(UserError, match="of an image's shorter side"):
        occlusion(relu_net, images[..., :6, :], window=7, stride=1)


def test_captum_agrees(relu_net, images, classes):
    expected = captum.attr.Occlusion(relu_net).attribute(
        images, (3, 2, 2), strides=(3, 2, 2), target=classes, baselines=0
    )
    found = occlusion(relu_net, images, window=2, stride=2, baseline="black")
    assert torch.allclose(found.of(classes), expected)


def test_all_classes_from_the_same_forwards(relu_net, images):
    rows = []
    handle = relu_net.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    field = occlusion(relu_net, images, window=4, stride=4)
    for index in range(4):
        field.of(torch.full((3,), index))
    handle.remove()
    assert sum(rows) == 3 + 3 * 4


def test_what_covers_nothing_changes_nothing_in_any_company():
    """The intact logit comes from the same pass as the covered ones."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)
    model = timm.create_model("resnet18", num_classes=3).eval()
    images = torch.rand(5, 3, 32, 32)
    images[0] = 0
    together = occlusion(model, images, window=8, stride=8, baseline="black")
    alone = occlusion(model, images[:1], window=8, stride=8, baseline="black")
    for field in (together, alone):
        assert (field.of(torch.tensor([1] * len(field.logits)))[0] == 0).all()
