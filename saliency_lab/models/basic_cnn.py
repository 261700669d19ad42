"""The small convolutional network of the reference experiment, registered with timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models import register_model
from torch import Tensor, nn


class BasicCNN(nn.Module):
    """A stem and three blocks of plain 3×3 convolutions, without batch norm.

    The stem is a 7×7 convolution with stride 2 and 32 channels, ReLU and a 3×3 max-pool with
    stride 2. Each block is [conv 3×3, ReLU, conv 3×3 stride 2, ReLU, conv 3×3, ReLU] with 32, 64
    and 128 channels. Global average pooling and one linear layer follow. 495,146 parameters for
    three input channels and ten classes.

    Args:
        num_classes: width of the linear layer; 0 leaves the pooled features.
        in_chans: channels of the input images.
    """

    def __init__(self, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = 128
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, 32, 7, stride=2, padding=3),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.blocks = nn.Sequential(_block(32, 32), _block(32, 64), _block(64, 128))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(128, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.fc = nn.Linear(128, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        return self.blocks(self.stem(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.pool(x).flatten(1)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, in_chans, H, W)."""
        return self.forward_head(self.forward_features(x))


def _block(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
    )


@register_model
def basic_cnn(pretrained: bool = False, **settings: Any) -> BasicCNN:
    """timm's entry point; no published weights exist for this network."""
    if pretrained:
        raise RuntimeError("No pretrained weights are available for basic_cnn")
    return BasicCNN(**own_settings(settings))


def own_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of what timm hands to an entry point, what is the network's own."""
    of_timm = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    return {name: value for name, value in settings.items() if name not in of_timm}
