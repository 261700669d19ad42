"""A classifier whose logits are exact sums over patches, registered with timm."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from timm.models import register_model
from torch import Tensor, nn

from saliency_lab.errors import UserError
from saliency_lab.models.basic_cnn import own_settings

# Images at most this large are cut into patches of 8 pixels, larger ones into patches of 28.
_SMALL = 64


class PatchSum(nn.Module):
    """S(x) = (1/P) Σ_p h(patch_p(x)) over P non-overlapping patches that never meet.

    Patches are moved into the batch dimension, so that a convolution's zero padding begins at the
    border of the patch. There, `depth` stages of [conv 3×3 stride 2, batch norm, ReLU] of width,
    2·width, … channels halve the patch, and one convolution as large as what is left of it gives
    width·2^depth features. A convolution of 1×1 with batch norm and ReLU follows, the same for
    every patch; then the mean over patches and one linear layer. As the mean and the linear layer
    change places, h is the linear layer on a patch's features. Batch norm meets other patches
    while training only: in eval mode it is a fixed affine map.

    Args:
        num_classes: width of the linear layer; 0 leaves the pooled features.
        in_chans: channels of the input images.
        patch: side of a patch in pixels, a multiple of 2^depth.
        width: channels of the first stage.
        depth: number of stages.

    Raises:
        UserError: a patch that `depth` stages cannot halve.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        patch: int = 8,
        width: int = 48,
        depth: int = 2,
    ) -> None:
        super().__init__()
        if patch % 2**depth:
            raise UserError(
                f"Expected `model.patch` to be a multiple of {2**depth} for model.depth={depth}, "
                f"but got {patch}"
            )
        features = width * 2**depth
        self.patch, self.in_chans, self.num_classes = patch, in_chans, num_classes
        self.num_features = self.head_hidden_size = features
        self.grid = nn.PixelUnshuffle(patch)
        widths = [in_chans, *(width * 2**stage for stage in range(depth))]
        stages = [
            _layer(before, after, 3, stride=2, padding=1) for before, after in pairwise(widths)
        ]
        self.encoder = nn.Sequential(*stages, _layer(widths[-1], features, patch // 2**depth))
        self.top = _layer(features, features, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(features, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """Features of every patch, (B, features, H / patch, W / patch)."""
        folded = self.grid(x)
        rows, columns = folded.shape[2], folded.shape[3]
        pixels = folded.permute(0, 2, 3, 1).reshape(-1, self.in_chans, self.patch, self.patch)
        encoded = self.encoder(pixels).reshape(-1, rows, columns, self.num_features)
        return self.top(encoded.permute(0, 3, 1, 2))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.pool(x).flatten(1)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, in_chans, H, W)."""
        return self.forward_head(self.forward_features(x))

    def patch_logits(self, x: Tensor) -> Tensor:
        """h of every patch: (B, num_classes, H / patch, W / patch), whose mean is `forward`."""
        features = self.forward_features(x)
        return self.fc(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _layer(inputs: int, width: int, side: int, stride: int = 1, padding: int = 0) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, width, side, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


@register_model
def patch_sum(pretrained: bool = False, **settings: Any) -> PatchSum:
    """timm's entry point; no published weights exist for this network."""
    if pretrained:
        raise RuntimeError("No pretrained weights are available for patch_sum")
    return PatchSum(**own_settings(settings))


def patch_sum_network(
    num_classes: int,
    in_chans: int = 3,
    *,
    image_size: tuple[int, int],
    patch: Annotated[int, Gt(0)] | Literal["auto"] = "auto",
    width: Annotated[int, Ge(4)] = 48,
    depth: Annotated[int, Ge(1)] = 2,
) -> PatchSum:
    """An untrained PatchSum for images (B, in_chans, H, W) in [0, 1]: the `model` group.

    Args:
        num_classes: number of logits K.
        in_chans: channels C of the images.
        image_size: (H, W), both multiples of the patch's side.
        patch: side of a patch; `auto` is 8 for images of at most 64 pixels and 28 above.
        width, depth: see PatchSum.

    Raises:
        UserError: patches that do not tile the image, or that `depth` stages cannot halve.
    """
    side = patch if patch != "auto" else 8 if max(image_size) <= _SMALL else 28
    if any(length % side for length in image_size):
        raise UserError(
            f"Expected `model.patch` to divide images of {image_size[0]}×{image_size[1]}, "
            f"but got {side}"
        )
    return PatchSum(num_classes, in_chans, side, width, depth)
