"""`python -m benchmarks.resizing --data DIR`: which filter made Imagenette's photographs smaller?

A filter leaves two traces: how much of the finest detail is left, and a ripple over columns and
rows, since each new pixel lies elsewhere between old ones. Both are measured on the test images and
on random images with the spectrum of photographs, 500×375 as most of the originals are, that are
stretched to 224×224 by each filter and stored as JPEG of quality 75.

`--soften DIR` writes all photographs there as torchvision's bilinear filter would have left them,
as far as that can be made of ours: softened along each axis by what the random images' finest
detail differs by, and stored anew. Storing puts noise of its own into the finest detail, so of real
photographs the ripple alone tells filters apart.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch.nn import functional

from benchmarks.options import Options

Floats = NDArray[np.float64]

_SIDE = 224
_WIDTH, _HEIGHT = 500, 375
_SLOPE = 1.1  # amplitude falls as 1 / frequency^slope
_MADE = 60
# Of a kernel of three: rows, columns. The finest detail falls to 0.43 and 0.75 of its power.
_BESIDE = (0.0975, 0.0396)
_MIDDLE, _FINEST = slice(28, 33), slice(105, 110)  # of 112 frequencies


class Traces(NamedTuple):
    """What is left of the finest detail beside the middle's, and ripples beside the usual ones'."""

    finest: tuple[float, float]
    ripples: tuple[float, float]


def main() -> None:
    """Print the traces in the photographs and those of each filter."""
    options = Options(__doc__, "data")
    options.add_argument(
        "--soften", type=Path, help="a folder for softer copies of all photographs"
    )
    settings = options.chosen()
    root = Path(settings.data) / "imagenette2"
    files = sorted((root / "val").rglob("*.JPEG"))
    print(f"{'':24s}finest detail, power     ripple, times the median")
    print(f"{'':24s}columns   rows           columns   rows")
    _show(f"{len(files):,} photographs", traces(_grey(Image.open(file)) for file in files))
    rng = np.random.default_rng(42)
    made = [_random_image(rng) for _ in range(_MADE)]
    for name in ("bilinear", "bicubic", "lanczos", "box", "nearest"):
        kind = Image.Resampling[name.upper()]
        small = (image.resize((_SIDE, _SIDE), kind) for image in made)
        _show(f"{name}, antialiased" if name != "nearest" else name, traces(map(_stored, small)))
    _show("bilinear, aliased", traces(_stored(_aliased(image)) for image in made))
    if settings.soften:
        copies = settings.soften / "imagenette2"
        _soften(root, copies)
        files = sorted((copies / "val").rglob("*.JPEG"))
        _show("photographs, softened", traces(_grey(Image.open(file)) for file in files))


def traces(images: Iterable[Floats]) -> Traces:
    """Of grey images (224, 224); the ripple's frequency is that of 500×375 made 224×224."""
    powers, steps = [], []
    window = np.hanning(_SIDE)
    for image in images:
        both = (image, image.T)
        spectra = [np.abs(np.fft.rfft((one - one.mean()) * window)) ** 2 for one in both]
        powers.append([found.mean(0) for found in spectra])
        # Few strong edges must not decide: steps count up to a limit.
        means = [np.minimum(np.abs(np.diff(one)), 40).mean(0) for one in both]
        steps.append([found / max(found.mean(), 1e-9) for found in means])
    power = np.mean([[one / one[1:].sum() for one in pair] for pair in powers], axis=0)
    ripple = [
        _ripple(*pair) for pair in zip(np.mean(steps, axis=0), (_WIDTH, _HEIGHT), strict=True)
    ]
    finest = power[:, _FINEST].mean(1) / power[:, _MIDDLE].mean(1)
    return Traces((finest[0], finest[1]), (ripple[0], ripple[1]))


def _ripple(steps: Floats, size: int) -> float:
    """The strongest of the frequencies around the one that new pixels move on old ones with."""
    smooth = np.convolve(np.pad(steps, 8, mode="edge"), np.ones(17) / 17, mode="valid")
    found = np.abs(np.fft.rfft((steps - smooth) * np.hanning(len(steps))))
    turns = size / _SIDE % 1
    at = round(min(turns, 1 - turns) * len(steps))
    return float(found[at - 1 : at + 2].max() / np.median(found))


def _random_image(rng: np.random.Generator) -> Image.Image:
    rows, columns = np.fft.fftfreq(_HEIGHT)[:, None], np.fft.rfftfreq(_WIDTH)[None]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = 1
    common = rng.normal(size=(_HEIGHT, _WIDTH))
    channels = []
    for _ in range(3):
        noise = np.fft.rfft2(common + 0.15 * rng.normal(size=common.shape))
        drawn = np.fft.irfft2(noise / frequency**_SLOPE, s=common.shape)
        channels.append((drawn - drawn.mean()) / drawn.std() * 55 + 115)
    return Image.fromarray(np.stack(channels, -1).clip(0, 255).round().astype(np.uint8))


def _aliased(image: Image.Image) -> Image.Image:
    """As OpenCV's and PyTorch's bilinear interpolation do by default."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    small = functional.interpolate(pixels, (_SIDE, _SIDE), mode="bilinear")[0]
    return Image.fromarray(small.round().byte().permute(1, 2, 0).numpy())


def _soften(root: Path, copies: Path) -> None:
    for file in sorted(root.rglob("*.JPEG")):
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
        for axis, beside in enumerate(_BESIDE):
            pixels = ndimage.convolve1d(
                pixels, [beside, 1 - 2 * beside, beside], axis=axis, mode="nearest"
            )
        copy = copies / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        softer = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
        softer.save(copy, "JPEG", quality=75)


def _stored(image: Image.Image) -> Floats:
    held = io.BytesIO()
    image.save(held, "JPEG", quality=75)
    return _grey(Image.open(held))


def _grey(image: Image.Image) -> Floats:
    with image:
        return np.asarray(image.convert("L"), dtype=np.float64)


def _show(name: str, found: Traces) -> None:
    fine, ripple = found
    print(f"{name:24s}{fine[0]:.3f}     {fine[1]:.3f}", end="")
    print(f"          {ripple[0]:5.1f}     {ripple[1]:5.1f}", flush=True)


if __name__ == "__main__":
    main()
