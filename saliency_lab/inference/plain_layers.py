"""timm's compound layers as PyTorch's plain ones, which can be folded and packed."""

from __future__ import annotations

from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.padding import pad_same
from torch import Tensor, nn


class SamePadding(nn.Module):
    """The zeros that TensorFlow's padding `SAME` puts around images of whatever size.

    Args:
        conv: the convolution that they are for.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self._window = (list(conv.kernel_size), list(conv.stride), list(conv.dilation))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H + h, W + w)."""
        padded: Tensor = pad_same(images, *self._window)
        return padded


def with_plain_layers(model: nn.Module) -> nn.Module:
    """The model with timm's compound layers replaced by equal sequences of plain ones.

    `Conv2dSame` becomes padding and a convolution, `BatchNormAct2d` a batch norm and the activation
    behind it. The model given is changed; it keeps its parameters and buffers.
    """
    plain: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child not in plain:
                plain[child] = _plain(child)
            setattr(parent, name, plain[child])
    return model


def _plain(layer: nn.Module) -> nn.Module:
    # Each is its base class and something before or behind it.
    if type(layer) is Conv2dSame:
        padding = SamePadding(layer)
        layer.__class__ = nn.Conv2d  # type: ignore[assignment]
        return nn.Sequential(padding, layer)
    if type(layer) is BatchNormAct2d:
        drop, activation = layer.drop, layer.act
        del layer.drop, layer.act
        layer.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
        return nn.Sequential(layer, drop, activation)
    return layer
