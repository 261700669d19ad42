"""What the Python face is given: models and images, checked before anything is computed."""

from __future__ import annotations

import contextlib
import math
import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saliency_lab.errors import UserError
from saliency_lab.frozen import intact_logits, model_place

PixelRange = tuple[float, float]
UNIT: PixelRange = (0.0, 1.0)
_CHANNELS = (1, 3, 4)


class Normalize(nn.Module):
    """(x − mean) / std per channel, for pixels in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def normalized(model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Sequential:
    """A model of pixels in [0, 1] from one of normalised images: (pixels − mean) / std goes in.

    So images are given as they are, black is 0 and white is 1, and gradients are with respect to
    pixels. The model itself is not copied: its layers are those of `.model`.

    Args:
        model: from normalised images (B, C, H, W) to logits (B, K).
        mean, std: C numbers each, in units of pixels in [0, 1], for example ImageNet's
            (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225).

    Raises:
        UserError: a model that is no module, or numbers that are not C means and C positive ones.
    """
    given_model(model)
    try:
        means, stds = tuple(float(m) for m in mean), tuple(float(s) for s in std)
    except (TypeError, ValueError, RuntimeError):
        means, stds = (), (math.nan,)
    if len(means) != len(stds) or not all(math.isfinite(m) for m in means):
        raise UserError(
            "Expected `mean` and `std` to be one finite number per channel each, but got "
            f"{mean} and {std}."
        )
    if not all(math.isfinite(s) and s > 0 for s in stds):
        raise UserError(f"Expected `std` to be greater than 0, but got {std}.")
    device, dtype = model_place(model, torch.zeros(()))
    layer = Normalize(means, stds).to(device, dtype)
    both = nn.Sequential(OrderedDict(normalize=layer, model=model))
    # A Sequential begins in training mode and the model may be in eval mode: it stays so.
    both.training = model.training
    return both


def given_model(model: object) -> nn.Module:
    """The model if it is a module.

    Raises:
        UserError: it is something else. A plain function hides its modules, so that nothing could
            put them into eval mode.
    """
    if isinstance(model, nn.Module):
        return model
    named = getattr(model, "__name__", type(model).__name__)
    raise UserError(
        "Expected `model` to be a torch.nn.Module, which alone can be put into eval mode and back, "
        f"but got {named}; call it in the forward method of a module that holds its networks."
    )


def given_tensor(values: object, name: str, shape: str) -> Tensor:
    """A tensor as it is, a NumPy array as a tensor.

    Args:
        values: what the argument `name` is given.
        name, shape: for the message.

    Raises:
        UserError: it is something else.
    """
    if isinstance(values, Tensor):
        return values
    got = type(values).__name__
    if isinstance(values, np.ndarray):
        got = f"an array of {values.dtype}"
        with contextlib.suppress(TypeError, ValueError):
            # PyTorch knows no negative strides, which a mirrored array has.
            backward = any(stride < 0 for stride in values.strides)
            return torch.from_numpy(values.copy() if backward else values)
    raise UserError(
        f"Expected `{name}` to be a tensor or NumPy array of shape {shape}, but got {got}."
    )


def given_images(
    images: object, pixel_range: PixelRange | None = UNIT, *, adjustable: bool = False
) -> Tensor:
    """The images as a tensor (B, C, H, W), NumPy arrays included.

    Args:
        images: floating, (B, C, H, W), one or more.
        pixel_range: lowest and highest value that a pixel may have; None: any.
        adjustable: whether who gives the images can give `pixel_range`, too; for the message.

    Raises:
        UserError: no images, of another kind, shape or range.
    """
    pixels = given_tensor(images, "images", "(B, C, H, W)")
    shape = tuple(pixels.shape)
    if pixels.dim() != 4 or not pixels.is_floating_point():
        raise UserError(
            "Expected `images` to be floating, of shape (B, C, H, W), with pixels in [0, 1], but "
            f"got {shape} of {pixels.dtype}{_hint(pixels)}."
        )
    if not pixels.numel():
        raise UserError(f"Expected `images` to hold at least one image, but got {shape}.")
    if pixel_range is not None:
        _require_range(pixels, pixel_range, adjustable)
    return pixels


def given_maps(maps: object) -> Tensor:
    """The maps as a tensor (B, H, W), NumPy arrays included.

    Raises:
        UserError: they are something else, or not finite.
    """
    values = given_tensor(maps, "maps", "(B, H, W)")
    if values.dim() != 3:
        raise UserError(f"Expected `maps` to be (B, H, W), but got {tuple(values.shape)}.")
    finite = values.isfinite()
    if not bool(finite.all()):
        rows = (~finite.flatten(1).all(1)).nonzero().flatten().tolist()
        raise UserError(
            f"Expected `maps` to be finite, but got NaN or infinity in maps {rows[:5]}."
        )
    return values


def given_batch(images: object, maps: object) -> tuple[Tensor, Tensor]:
    """Images with pixels in [0, 1] and a finite map (H, W) of each, on the images' device.

    Raises:
        UserError: what `given_images` and `given_maps` raise, and maps that do not fit the images.
    """
    pixels, values = given_images(images), given_maps(maps)
    if values.shape != (len(pixels), *pixels.shape[2:]):
        raise UserError(
            f"Expected `maps` to be {(len(pixels), *pixels.shape[2:])} for these images, "
            f"but got {tuple(values.shape)}."
        )
    return pixels, values.detach().to(pixels.device)


def given_targets(targets: object, images: int) -> Tensor | None:
    """The classes of so many images, int64 (B,): one whole number stands for all; None stays None.

    Raises:
        UserError: they are something else, or not one per image.
    """
    return None if targets is None else _whole_numbers(targets, images, "targets")


def given_classes(classes: object, logits: Tensor, name: str = "classes") -> Tensor:
    """Classes of the logits (B, K), int64 (B,) beside them: one for each image or one for all.

    Raises:
        UserError: they are something else, or no tensor and outside [0, K).
    """
    chosen = _whole_numbers(classes, len(logits), name)
    # To read a tensor is to wait for the accelerator, and a field is asked for every class.
    if not isinstance(classes, Tensor):
        require_classes(chosen, logits.shape[1], name)
    return chosen.to(logits.device)


def require_classes(chosen: Tensor, classes: int, name: str) -> None:
    """Nothing, or a UserError that names the argument, if a class is not one of so many."""
    if bool(((chosen < 0) | (chosen >= classes)).any()):
        raise UserError(f"Expected `{name}` to be in [0, {classes}), but got {chosen.tolist()}.")


def given_seed(seed: object) -> int:
    """The seed as an int: 42 and 42.0 are the same number, but not the same random numbers.

    Raises:
        UserError: it is no whole number.
    """
    number = whole_number(seed)
    if number is None:
        raise UserError(f"Expected `seed` to be a whole number, but got {seed!r}.")
    return number


def given_sample_ids(sample_ids: object, images: int) -> list[str | int]:
    """The ids of so many images; 0 ... B − 1 if they are None.

    Raises:
        UserError: they are not one for each image, or neither text nor whole numbers: 0 and 0.0
            would be two samples, with random numbers of their own.
    """
    if sample_ids is None:
        return list(range(images))
    wanted = f"Expected `sample_ids` to be one for each of {images} images, but got "
    if not isinstance(sample_ids, Iterable):
        raise UserError(f"{wanted}{type(sample_ids).__name__}.")
    found: list[str | int] = []
    for one in sample_ids:
        name = one if isinstance(one, str) else whole_number(one)
        if name is None:
            raise UserError(
                f"Expected `sample_ids` to be text or whole numbers, but got {one!r} among them."
            )
        found.append(name)
    if len(found) != images:
        raise UserError(f"{wanted}{len(found)}.")
    return found


def whole_number(value: Any) -> int | None:
    """An int of any kind, those of NumPy and tensors included; None for all else."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _whole_numbers(targets: object, images: int, name: str) -> Tensor:
    wanted = f"Expected `{name}` to be {images} whole numbers, one class per image, but got "
    try:
        found = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{wanted}{type(targets).__name__}.") from error
    if found.dim() == 0:
        found = found.expand(images)
    whole = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
    if found.shape != (images,) or not whole:
        raise UserError(f"{wanted}{tuple(found.shape)} of {found.dtype}.")
    return found.long()


def require_positive(number: int, name: str) -> None:
    """Nothing, or a UserError that names the argument, if the number is not 1 or more."""
    if number < 1:
        raise UserError(f"Expected `{name}` to be 1 or more, but got {number}.")


def require_finite_logits(logits: Tensor) -> None:
    """Nothing, or a UserError that names the images with logits (B, K) that are not finite."""
    if not bool(logits.isfinite().all()):
        rows = (~logits.isfinite().all(1)).nonzero().flatten().tolist()
        raise UserError(f"Expected finite logits, but got NaN or infinity for images {rows[:5]}.")


@contextlib.contextmanager
def taking(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Tells an error inside that comes of the model itself as what it is.

    Raises:
        UserError: something failed, and the model does not take one of the images; the message
            holds what the model says.
    """
    try:
        yield
    except Exception:
        _require_taken(model, images)
        raise


def _require_taken(model: nn.Module, images: Tensor) -> None:
    try:
        intact_logits(model, images[:1])
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        size = "×".join(str(length) for length in images.shape[1:])
        raise UserError(
            f"Expected `model` to take images of {size}, but it says: {reason}"
        ) from error


def _require_range(pixels: Tensor, pixel_range: PixelRange, adjustable: bool) -> None:
    low, high = pixel_range
    if not low < high:
        raise UserError(f"Expected `pixel_range` to be (low, high), but got {pixel_range}.")
    least, most = (float(value) for value in pixels.detach().aminmax())
    # NaN is neither below nor above: what is computed from it names the images.
    if not (least < low or most > high):
        return
    wanted = f"[{low:g}, {high:g}]"
    meant = "; if these values are meant, say so: pixel_range=(low, high), or None for no check"
    raise UserError(
        f"Expected `images` to have pixels in {wanted}, but got {least:.4g} to {most:.4g}. A model "
        "of normalised images goes in as normalized(model, mean, std) with pixels in [0, 1]"
        f"{meant if adjustable else ''}."
    )


def _hint(pixels: Tensor) -> str:
    shape, hints = pixels.shape, []
    if pixels.dim() == 3:
        hints.append("one image is images[None]")
    if pixels.dim() == 4 and shape[3] in _CHANNELS and shape[1] not in _CHANNELS:
        hints.append("channels come second: images.transpose(0, 3, 1, 2) of an array")
    if pixels.dtype == torch.uint8:
        hints.append("bytes are divided by 255")
    return f" ({'; '.join(hints)})" if hints else ""
