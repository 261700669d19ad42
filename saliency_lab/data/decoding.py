"""From an image file to uint8 pixels of a fixed size."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from saliency_lab.data.source import Pixels, Reader, Unreadable

Resize = Literal["stretch", "crop"]
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
)
DECODING = "rgb,exif,bilinear-antialias,1"
"""Changes when the pixels made from a file change."""

# What Pillow raises for damaged files of the formats above.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error,
           Image.DecompressionBombError)  # fmt: skip
_CROP_SHARE = 224 / 256
_BITS_PER_SAMPLE = 258


def decoded(path: Path, size: int | tuple[int, int], resize: Resize) -> Pixels:
    """An image file as RGB, uint8 (3, H, W), where `size` is both of them or (H, W).

    The EXIF orientation is honoured. An image that has the size already is left as it is.
    `stretch` ignores the aspect; `crop` brings the shorter side to 256/224 of the size, which must
    be a square's, and takes the middle. Both are bilinear with antialiasing.

    Greys of more than 8 bits keep their upper 8, whatever values an image has: a dark image of
    16 bits stays dark. So are values of 0 … 255 that were saved with 16 or 32 bits, as an array of
    wider integers is: nothing in the file tells them from those of a dark image.

    Raises:
        OSError, SyntaxError, ValueError and others of Pillow's: the file is damaged or no image.
    """
    with Image.open(path) as opened:
        image = _rgb(ImageOps.exif_transpose(opened), _grey_bits(opened))
    image = resized(image, size, resize)
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))


def grey(pixels: Pixels) -> Pixels:
    """RGB pixels (3, H, W) as greys (1, H, W), by Pillow's weights; those of a grey image stay."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return np.asarray(image.convert("L"), dtype=np.uint8)[None]


def resized(image: Image.Image, size: int | tuple[int, int], resize: Resize) -> Image.Image:
    """A picture of this size; see `decoded`."""
    height, width = (size, size) if isinstance(size, int) else size
    if image.size == (width, height):
        return image
    if resize == "stretch":
        return image.resize((width, height), Image.Resampling.BILINEAR)
    return _cropped(image, height)


def file_reader(paths: Sequence[Path], size: int, resize: Resize) -> Reader:
    """A source's reader over image files; unreadable ones are left black and named."""

    def read(positions: Sequence[int]) -> tuple[Pixels, Unreadable]:
        pixels = np.zeros((len(positions), 3, size, size), dtype=np.uint8)
        unreadable: Unreadable = {}
        for slot, position in enumerate(positions):
            path = paths[position]
            try:
                pixels[slot] = decoded(path, size, resize)
            except DAMAGE as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                unreadable[position] = reason if str(path) in reason else f"{path} ({reason})"
        return pixels, unreadable

    return read


def _grey_bits(image: Image.Image) -> int:
    """Bits of a grey value, of files whose greys Pillow opens in a mode that begins with I.

    PNG and PGM files are of 16 bits: PNG opens in I;16, in older versions in I; PGM opens in I,
    scaled to 65535. TIFF files say their bits: 16 or 12 in I;16, or 32 in I, which are taken for
    16, since nothing says what is white.
    """
    said = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
    return min(int(said[0]), 16)


def _rgb(image: Image.Image, grey_bits: int) -> Image.Image:
    if image.mode == "F":
        # Nothing says what is white; Pillow would cut everything off below 0 and above 255.
        raise ValueError("floating point; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        # 16-bit greys: Pillow's own conversion cuts everything above 255 off.
        values = np.asarray(image, dtype=np.int64)
        divisor = 2 ** (grey_bits - 8)
        image = Image.fromarray((np.clip(values, 0, 65535) // divisor).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def _cropped(image: Image.Image, size: int) -> Image.Image:
    scale = round(size / _CROP_SHARE) / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
