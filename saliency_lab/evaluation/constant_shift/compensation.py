"""A network that takes images shifted by a constant and computes what it did without the shift."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saliency_lab.errors import UserError
from saliency_lab.frozen import bare_copy, entered_modules, intact_logits, placed_images

# How far logits of the two networks may be apart, relative to the largest one above 1.
_AGREEMENT = 1e-3

_Pair = tuple[int, int]


class ShiftedConv2d(nn.Conv2d):
    """A convolution whose bias takes a constant of its input away again.

    A border that was padded with zeros is padded with the constant, channel by channel: what was
    black outside the image has to be as bright as black has become. So the compensation is exact
    at borders, too.
    """

    offset: Tensor

    def __init__(self, convolution: nn.Conv2d, offset: Tensor) -> None:
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            cast(_Pair, convolution.kernel_size),
            cast(_Pair, convolution.stride),
            0,
            cast(_Pair, convolution.dilation),
            convolution.groups,
            device="meta",  # nothing is drawn from the process's generators
            dtype=convolution.weight.dtype,
        )
        # Left, right, top, bottom, as torch's own forward pads.
        self._sides = tuple(convolution._reversed_padding_repeated_twice)
        self._mode = convolution.padding_mode
        self.register_buffer("offset", offset.view(1, -1, 1, 1).to(convolution.weight))
        constant = offset.view(1, -1, 1, 1).expand(1, -1, *convolution.kernel_size)
        with torch.no_grad():
            response = F.conv2d(
                constant.to(convolution.weight),
                convolution.weight,
                dilation=1,
                groups=convolution.groups,
            ).flatten()
            bias = torch.zeros_like(response) if convolution.bias is None else convolution.bias
            weight = convolution.weight.detach().clone(memory_format=torch.contiguous_format)
            self.weight = nn.Parameter(weight)
            self.bias = nn.Parameter(bias - response, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of images (B, C, H, W) that hold the constant."""
        if any(self._sides):
            if self._mode == "zeros":
                x = F.pad(x - self.offset, self._sides) + self.offset
            else:
                x = F.pad(x, self._sides, mode=self._mode)
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def compensated(model: nn.Module, images: Tensor, shift: float) -> nn.Module:
    """A copy of the model whose first bias compensates a shift of the input.

    The first layer with weights has to be a plain convolution or linear layer; what comes before
    it (a normalisation) has to turn the shift into a constant per channel.

    Args:
        model: from images to logits (B, K); left unchanged.
        images: (B, C, H, W), on which it is made sure that copy(images + shift) = model(images).
        shift: added to every pixel and channel.

    Raises:
        UserError: the model does not begin in such a way, or the copy's logits are others.

    Source: Kindermans et al., "The (un)reliability of saliency methods", 2019, section 3.1.
    """
    name, layer = _first_layer(model, images)
    offset = _offset(model, layer, images, shift)
    copied = bare_copy(model)
    parent, _, own = name.rpartition(".")
    if isinstance(layer, nn.Conv2d):
        if float((offset - offset.mean((1, 2), keepdim=True)).abs().max()) > 1e-5:
            raise UserError(
                "Expected `model` to turn a constant shift of its input into one that is constant "
                f"per channel before its first layer '{name}', but it does not."
            )
        replaced: nn.Module = ShiftedConv2d(layer, offset.mean((1, 2)))
    else:
        replaced = _shifted_linear(layer, offset)
    copied = replaced if not name else _with(copied, parent, own, replaced)
    expected, found = intact_logits(model, images), intact_logits(copied, images + shift)
    difference = float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()))
    if not difference <= _AGREEMENT:
        raise UserError(
            "Expected `model` to give the same logits once the bias of its first layer "
            f"'{name}' compensates a shift of {shift}, but they differ by {difference:.1e}."
        )
    return copied.eval()


def _with(model: nn.Module, parent: str, own: str, replaced: nn.Module) -> nn.Module:
    model.get_submodule(parent)._modules[own] = replaced
    return model


def _first_layer(model: nn.Module, images: Tensor) -> tuple[str, nn.Conv2d | nn.Linear]:
    """The first module with parameters that a forward enters, and its name."""
    owners = {n: m for n, m in model.named_modules() if list(m.parameters(recurse=False))}
    entered = [name for name in entered_modules(model, images) if name in owners]
    first = owners[entered[0]] if entered else None
    # A subclass may do more than convolve, such as padding by itself.
    if entered and type(first) in (nn.Conv2d, nn.Linear) and entered.count(entered[0]) == 1:
        return entered[0], cast("nn.Conv2d | nn.Linear", first)
    found = "none" if first is None else f"{type(first).__name__} '{entered[0]}'"
    raise UserError(
        "Expected `model` to begin with a plain nn.Conv2d or nn.Linear that is used once, whose "
        f"bias can compensate a constant shift of the input, but its first layer is {found}."
    )


def _offset(model: nn.Module, layer: nn.Conv2d | nn.Linear, images: Tensor, shift: float) -> Tensor:
    """What the shift has become where it enters the layer: the shape of one sample's input."""
    inputs: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _m, given: inputs.append(given[0].detach()))
    black = torch.zeros_like(images[:1])
    try:
        intact_logits(model, placed_images(model, black))
        intact_logits(model, placed_images(model, black + shift))
    finally:
        hook.remove()
    return (inputs[1].double() - inputs[0].double())[0]


def _shifted_linear(layer: nn.Linear, offset: Tensor) -> nn.Linear:
    copied = bare_copy(layer)
    # Of patches, every one has the same offset.
    one = offset.reshape(-1, layer.in_features)[0]
    response = layer.weight.double() @ one
    bias = torch.zeros_like(response) if layer.bias is None else layer.bias.double()
    copied.bias = nn.Parameter((bias - response).to(layer.weight), requires_grad=False)
    return copied
