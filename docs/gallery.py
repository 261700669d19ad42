"""Every attribution method and view on the same four embedded images, as small PNGs.

`python docs/gallery.py` draws into docs/gallery; `make docs` does so by itself, and draws nothing
anew that is there already. The classifier is trained first, which takes a few minutes once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import saliency_lab as sl
from saliency_lab.data.drawing import CLASSES, drawn
from saliency_lab.explanation import method_names, source_function
from saliency_lab.models.checkpoint import load_classifier

VIEWS = ("original", "positive", "negative", "active", "inactive")
TRAINING = ["data=shapes", "data.batch_size=64", "scheduler=cosine", "trainer.max_epochs=6"]
SHOWN = (0, 2, 5, 7)
"""The classes of the four images."""
FIRST_UNSEEN = 1_000_000
ZOOM = 2


def draw(folder: Path) -> None:
    """Write METHOD-VIEW.png for all that there is, images.png, and drawn.json, which lists them."""
    if (folder / "drawn.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    network = load_classifier(_checkpoint(folder)).network
    pixels = np.stack([drawn(shape, (0, 1, FIRST_UNSEEN + shape))[0] for shape in SHOWN])
    images = torch.from_numpy(pixels).float().div(255)
    targets = torch.tensor(SHOWN)
    _strip(pixels.transpose(0, 2, 3, 1), columns=4).save(folder / "images.png")
    found: dict[str, list[str]] = {}
    missing: dict[str, str] = {}
    for name in method_names():
        if not _is_source(name):
            continue
        for view in VIEWS:
            try:
                maps = sl.explain(network, images, f"{name}/{view}", targets)
            except sl.UserError as error:
                if view == "original":
                    missing[name] = str(error).partition(";")[0]
                    break
                continue
            (values,) = maps.values()
            _strip(_grey(values.numpy()), columns=2).save(folder / f"{name}-{view}.png")
            found.setdefault(name, []).append(view)
    record = {
        "views": VIEWS,
        "classes": [CLASSES[shape] for shape in SHOWN],
        "methods": found,
        "missing": missing,
    }
    (folder / "drawn.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


def _is_source(name: str) -> bool:
    """Whether a yaml of conf/method describes a method, not a view of one."""
    try:
        source_function(name)
    except (sl.UserError, KeyError):
        return False
    return True


def _checkpoint(folder: Path) -> Path:
    root = folder / ".outputs"
    flags = ["logger=none", "trainer=cpu", f"output_root={root}"]
    subprocess.run([sys.executable, "-m", "saliency_lab", "train", *TRAINING, *flags], check=True)
    (found,) = root.glob("train/*/*/*/checkpoints/last.ckpt")
    return found


def _grey(maps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Each map by itself from black (its least) to white (its greatest), the top 1 % cut off."""
    low = maps.min((1, 2), keepdims=True)
    high = np.quantile(maps, 0.99, axis=(1, 2), keepdims=True)
    return (255 * np.clip((maps - low) / np.maximum(high - low, 1e-12), 0, 1)).astype(np.uint8)


def _strip(pictures: NDArray[np.uint8], columns: int) -> Image.Image:
    """Pictures (N, H, W) or (N, H, W, 3) side by side in so many columns."""
    height, width = pictures.shape[1:3]
    rows = -(-len(pictures) // columns)
    whole = np.full(
        (rows * (height + 1), columns * (width + 1), *pictures.shape[3:]), 255, np.uint8
    )
    for place, picture in enumerate(pictures):
        top, left = place // columns * (height + 1), place % columns * (width + 1)
        whole[top : top + height, left : left + width] = picture
    image = Image.fromarray(whole)
    return image.resize((image.width * ZOOM, image.height * ZOOM), Image.Resampling.NEAREST)


if __name__ == "__main__":
    draw(Path(__file__).resolve().parent / "gallery")
