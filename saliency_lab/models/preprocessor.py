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
    found: dict[str, Any] = {}
    # Its mean and deviation are those of pixels as it has rescaled them.
    factor = stored.get("rescale_factor", 1 / 255) if stored.get("do_rescale", True) else 1.0
    scale = round(255 * factor, 6)
    if stored.get("do_normalize", True):
        named = {name: stored[name] for name in ("image_mean", "image_std") if name in stored}
        found = {name: [number / scale for number in named[name]] for name in named}
    elif scale != 1:
        found = {"image_mean": [0.0] * 3, "image_std": [1 / scale] * 3}
    cropped = stored.get("crop_size") if stored.get("do_center_crop") else None
    resized = stored.get("size") if stored.get("do_resize", True) else None
    size = _height_and_width(resized if cropped is None else cropped)
    return found if size is None else {**found, "size": size}


def _height_and_width(size: object) -> tuple[int, int] | None:
    if isinstance(size, int):
        return (size, size)
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        return (size["height"], size["width"])
    if isinstance(size, Mapping) and "shortest_edge" in size:
        return (size["shortest_edge"],) * 2
    return None
