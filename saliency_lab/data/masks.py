"""Masks of the evidence from image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from saliency_lab.data.decoding import DAMAGE, Resize, resized
from saliency_lab.errors import UserError


def decoded_mask(path: Path, image: Path, size: int, resize: Resize) -> NDArray[np.bool]:
    """The mask of an image, laid over its decoded pixels: bool (size, size).

    Whatever is not 0 is evidence: an index of a palette, a grey value or any colour channel;
    transparency does not count. It is resized as its image is; a pixel of the result is evidence
    where at least half of what it is made of was.

    Args:
        path: the mask.
        image: the file that it belongs to, which must have the same size.
        size, resize: see `decoding.decoded`.

    Raises:
        UserError: the mask is missing, cannot be read, or has another size than the image.
    """
    if not path.is_file():
        raise UserError(
            f"Expected `data.root` to hold a mask of every image, but {path} does not exist."
        )
    try:
        with Image.open(path) as opened:
            evidence = _nonzero(ImageOps.exif_transpose(opened))
        with Image.open(image) as opened:
            wanted = ImageOps.exif_transpose(opened).size
    except DAMAGE as error:
        raise UserError(f"Expected the mask {path} to be readable, but got: {error}") from error
    if evidence.shape != wanted[::-1]:
        height, width = evidence.shape
        raise UserError(
            f"Expected the mask {path} to have its image's {wanted[0]}×{wanted[1]} pixels, "
            f"but got {width}×{height}"
        )
    picture = Image.fromarray(evidence.astype(np.uint8) * 255)
    return np.asarray(resized(picture, size, resize)) >= 128


def _nonzero(image: Image.Image) -> NDArray[np.bool]:
    values = np.asarray(image)
    if values.ndim == 2:
        return values != 0
    colours = len(image.getbands()) - ("A" in image.getbands())
    return (values[:, :, :colours] != 0).any(2)
