"""What the preprocessor of a Hugging Face folder does to images before its network sees them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saliency_lab.errors import UserError


def preprocessing(folder: Path) -> dict[str, Any]:
    """What a folder's preprocessor says, for pixels in [0, 1]: `image_mean`, `image_std`, `size`.

    The size (H, W) is that of its crop where it crops, for a network may take no other one.

    Raises:
        UserError: it flips the channels, which nothing here does.
    """
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return {}
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored.get("do_flip_channel_order"):
        raise UserError(
            "Expected `model.folder` to be of a network that takes red, green and blue in this "
            f"order, but the preprocessor in '{folder}' flips them; flip them in a module of your "
            "own (model=python)"
        )
    found = _normalisation(stored, folder)
    cropped = stored.get("crop_size") if stored.get("do_center_crop") else None
    resized = stored.get("size") if stored.get("do_resize", True) else None
    size = _height_and_width(resized if cropped is None else cropped)
    return found if size is None else {**found, "size": size}


def _normalisation(stored: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """`image_mean` and `image_std` that do to pixels in [0, 1] all that the processor does.

    It multiplies pixels in 0 … 255 by `rescale_factor`, with `rescale_offset` takes 1 off, then
    normalises, and with `include_top` divides by `image_std` once more. The last two are those of
    EfficientNet's processor, which does the very last where nothing is said and even with
    `do_normalize` false.
    """
    rescales = stored.get("do_rescale", True)
    scale = round(255 * (stored.get("rescale_factor", 1 / 255) if rescales else 1.0), 6)
    offset = 1.0 if rescales and stored.get("rescale_offset") else 0.0
    named = {name: stored[name] for name in ("image_mean", "image_std") if name in stored}
    again = _divides_again(stored)
    if again and "image_std" not in named:
        raise UserError(
            f"Expected the preprocessor in '{folder}' to say its `image_std`, by which it divides "
            "again (`include_top`), but it does not"
        )
    second = named["image_std"] if again else None
    if not stored.get("do_normalize", True):
        if scale == 1 and not offset and second is None:
            return {}
        channels = 3 if second is None else len(second)
        named = {"image_mean": [0.0] * channels, "image_std": [1.0] * channels}
    # Mean and deviation are those of pixels as it has rescaled them.
    found = {}
    if "image_mean" in named:
        found["image_mean"] = [(number + offset) / scale for number in named["image_mean"]]
    if "image_std" in named:
        further = [1.0] * len(named["image_std"]) if second is None else second
        both = zip(named["image_std"], further, strict=True)
        found["image_std"] = [number * factor / scale for number, factor in both]
    return found


def _divides_again(stored: Mapping[str, Any]) -> bool:
    made_by = str(stored.get("image_processor_type", stored.get("feature_extractor_type", "")))
    return bool(stored.get("include_top", made_by.startswith("EfficientNet")))


def _height_and_width(size: object) -> tuple[int, int] | None:
    if isinstance(size, int):
        return (size, size)
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        return (size["height"], size["width"])
    if isinstance(size, Mapping) and "shortest_edge" in size:
        return (size["shortest_edge"],) * 2
    return None
