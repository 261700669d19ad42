"""Which images `explain` draws: a person's own files, or test images of each class."""

from __future__ import annotations

import glob
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_lab.data.decoding import DAMAGE, SUFFIXES, Resize, decoded, grey
from saliency_lab.data.module import ImageData
from saliency_lab.errors import UserError
from saliency_lab.frozen import intact_logits
from saliency_lab.models.classifier import Classifier
from saliency_lab.runs.directory import read_config

log = logging.getLogger(__name__)

SEARCHED_AT_ONCE = 256


@dataclass
class Examples:
    """Images to explain, with what the classifier says of them."""

    names: list[str]
    images: NDArray[np.uint8]
    labels: list[str | None]
    logits: Tensor


def image_files(given: object) -> list[Path]:
    """The files that `images` names: files, folders with all below them, patterns; each once.

    Args:
        given: one path or a list of paths; `~` is the user's home, and a pattern (`*`, `?`, `[…]`)
            is asked for where no file has that very name.

    Raises:
        UserError: a path with no image, or something that is no path.
    """
    paths = [given] if isinstance(given, str) else given
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise UserError(f"Expected `images` to be a path or a list of paths, but got {given!r}")
    found = [file for path in paths for file in _files_at(path)]
    return list(dict.fromkeys(found))


def _files_at(path: str) -> list[Path]:
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    inside = place.rglob("*") if place.is_dir() else map(Path, glob.glob(str(place)))
    shown = (file for file in inside if not file.name.startswith("."))
    files = [file for file in shown if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not files:
        raise UserError(
            f"Expected `images` to be files, folders or patterns, but no image is at '{path}'"
        )
    return sorted(files)


def resize_of(config: Mapping[str, Any], model: Classifier) -> Resize:
    """How files became the images that the classifier was trained on.

    The checkpoint says so. For an older one its training's settings do, or those of the data that
    is named beside it, where the checkpoint lies elsewhere.
    """
    home = config["classifier"].get("directory")
    data = config["data"] if home is None else read_config(Path(home)).get("data", {})
    said = model.facts.get("resize") or data.get("resize")
    return said if said in get_args(Resize) else "stretch"


def own_examples(paths: Sequence[Path], model: Classifier, resize: Resize) -> Examples:
    """Files as the classifier sees them: in its size, and grey where it has one channel.

    Raises:
        UserError: a file that is no readable image, or a classifier of images that no file gives.
    """
    channels, height, width = model.facts["input_shape"]
    if channels not in (1, 3) or (resize == "crop" and height != width):
        raise UserError(
            "Expected `images` to be left out with this classifier, because files become grey or "
            "RGB images, with data.resize=crop square ones, but it takes "
            f"{channels}×{height}×{width} with data.resize={resize}"
        )
    images = []
    for path in paths:
        try:
            pixels = decoded(path, (height, width), resize)
        except DAMAGE as error:
            raise UserError(
                f"Expected `images` to be readable images, but '{path}' is not: {error}"
            ) from error
        images.append(grey(pixels) if channels == 1 else pixels)
    stacked = np.stack(images)
    return Examples([str(p) for p in paths], stacked, [None] * len(paths), _logits(model, stacked))


def correct_examples(data: ImageData, model: Classifier, per_class: int, seed: int) -> Examples:
    """For each class, test images that are classified correctly, drawn at random by seed."""
    if tuple(model.facts["classes"]) != data.class_names:
        raise UserError("Expected `data` to have the classes that the checkpoint was trained on")
    labels = data.labels("test")
    order = np.random.default_rng(seed).permutation(len(labels))
    found: dict[int, list[int]] = {label: [] for label in range(data.num_classes)}
    for start in range(0, len(order), SEARCHED_AT_ONCE):
        wanted = [
            i
            for i in order[start : start + SEARCHED_AT_ONCE]
            if len(found[int(labels[i])]) < per_class
        ]
        if wanted:
            predicted = _logits(model, data.images("test", wanted)).argmax(1).tolist()
            for index, prediction in zip(wanted, predicted, strict=True):
                if prediction == labels[index] and len(found[prediction]) < per_class:
                    found[prediction].append(int(index))
    for label, indices in found.items():
        if len(indices) < per_class:
            log.warning(
                "class %s has only %d correctly classified test images (%d requested)",
                data.class_names[label],
                len(indices),
                per_class,
            )
    chosen = [index for indices in found.values() for index in indices]
    if not chosen:
        raise UserError("Expected correctly classified test images, but the classifier has none")
    ids, images = data.ids("test"), data.images("test", chosen)
    names = [data.class_names[labels[index]] for index in chosen]
    return Examples([ids[i] for i in chosen], images, list(names), _logits(model, images))


def _logits(model: Classifier, images: NDArray[np.uint8]) -> Tensor:
    return intact_logits(model.network, torch.from_numpy(images).float().div(255)).cpu()
