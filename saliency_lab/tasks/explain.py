"""Draw maps of test images or of a person's own: `python -m saliency_lab explain`."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.maps import maps, require_finite
from saliency_lab.data.decoding import DAMAGE, SUFFIXES, decoded
from saliency_lab.data.module import ImageData
from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.evaluation.context import Method
from saliency_lab.frozen import intact_logits
from saliency_lab.models.checkpoint import load_classifier
from saliency_lab.models.classifier import Classifier
from saliency_lab.report.drawing.figures import example_grid, figure_bytes
from saliency_lab.report.drawing.palette import label_of
from saliency_lab.report.drawing.terminal import print_table
from saliency_lab.runs.directory import begin, finish, held
from saliency_lab.runs.files import atomic_path
from saliency_lab.runs.processes import process_rank
from saliency_lab.tasks.components import checked
from saliency_lab.tasks.evaluate import configured_method
from saliency_lab.tasks.support import pair_classifier, supported
from saliency_lab.training.components import data_module

log = logging.getLogger(__name__)

SEARCHED_AT_ONCE = 256


@dataclass
class Examples:
    """Images to explain, with what the classifier says of them."""

    names: list[str]
    images: NDArray[np.uint8]
    labels: list[str | None]
    logits: Tensor
    targets: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.targets = self.logits.argmax(1)


def run(config: Mapping[str, Any], directory: Path) -> None:
    """Write the grid of images and maps, the maps themselves and a table of predictions.

    Raises:
        UserError: no trained classifier, an unreadable image, an unknown target class.
    """
    checked(config)
    method = configured_method(config)
    checkpoint = Path(config["classifier"]["path"])
    asked, model = pair_classifier(config, method, load_classifier(checkpoint))
    classes = list(model.facts["classes"])
    target = None if config["target"] is None else _class_index(config["target"], classes)
    # Where support models are missing, all processes train them.
    method = supported(asked, method, model, _device(config), controls=False)
    if process_rank() > 0:
        return  # a handful of images is the work of one process
    with held(directory):
        # All that may be refused comes before anything of an earlier run is cleared away.
        model = model.to(_device(config))
        if config["images"]:
            examples = _own_files(image_files(config["images"]), model)
        else:
            data = data_module(asked)
            data.download()
            examples = _correct_ones(data, model, int(config["per_class"]), int(config["seed"]))
        if target is not None:
            examples.targets.fill_(target)
        begin(directory, config, overwrite=True, checkpoint={"path": str(checkpoint)})
        found = _maps(model, examples, method, int(config["seed"]))
        summary = _written(directory, config, examples, found, classes, method)
        finish(directory, {**summary, "checkpoint": {"path": str(checkpoint)}})
    columns = ["image", "label", "predicted", "probability", "explained"]
    if target is not None:
        columns.append("probability of explained")
    rows = [[row[name] for name in columns] for row in summary["examples"]]
    print_table("Explained", columns, rows, wrote=directory / "figures" / "grid.png")


def _device(config: Mapping[str, Any]) -> torch.device:
    wanted = config["trainer"]["accelerator"]
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


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


def _own_files(paths: Sequence[Path], model: Classifier) -> Examples:
    _, height, _ = model.facts["input_shape"]
    images = []
    for path in paths:
        try:
            images.append(decoded(path, height, "stretch"))
        except DAMAGE as error:
            raise UserError(
                f"Expected `images` to be readable images, but '{path}' is not: {error}"
            ) from error
    stacked = np.stack(images)
    return Examples([str(p) for p in paths], stacked, [None] * len(paths), _logits(model, stacked))


def _correct_ones(data: ImageData, model: Classifier, per_class: int, seed: int) -> Examples:
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
                "class %s has %d correctly classified test images, not %d",
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


def _class_index(target: str, classes: Sequence[str]) -> int:
    if target in classes:
        return list(classes).index(target)
    if target.isdigit() and int(target) < len(classes):
        return int(target)
    raise unknown_choice("target", target, classes)


def _maps(
    model: Classifier, examples: Examples, method: Method, seed: int
) -> dict[str, NDArray[np.float32]]:
    found = []
    # A few at a time: a person's own images may be many.
    for start in range(0, len(examples.names), 16):
        rows = slice(start, start + 16)
        batch = maps(
            model.network,
            torch.from_numpy(examples.images[rows]).float().div(255),
            method.source,
            method.views,
            examples.targets[rows],
            channels=method.channels,
            competitors=method.competitors,
            generator=SampleGenerator(seed, examples.names[rows]),
        )
        require_finite(batch.finite, examples.names[rows])
        found.append(batch.maps)
    return {
        label_of(method.name, view): torch.cat([part[view] for part in found]).cpu().numpy()
        for view in method.views
    }


def _written(
    directory: Path,
    config: Mapping[str, Any],
    examples: Examples,
    found: Mapping[str, NDArray[np.float32]],
    classes: Sequence[str],
    method: Method,
) -> dict[str, Any]:
    probabilities = examples.logits.float().softmax(1)
    rows = [
        {
            "image": name,
            "label": examples.labels[i],
            "predicted": classes[int(probabilities[i].argmax())],
            "probability": float(probabilities[i].max()),
            "explained": classes[int(examples.targets[i])],
            "probability of explained": float(probabilities[i, examples.targets[i]]),
        }
        for i, name in enumerate(examples.names)
    ]
    captions = [_caption(row) for row in rows]
    figure = example_grid(examples.images.transpose(0, 2, 3, 1), found, captions)
    for kind in ("png", "pdf"):
        with atomic_path(directory / "figures" / f"grid.{kind}") as path:
            path.write_bytes(figure_bytes(figure, kind))
    with atomic_path(directory / "maps.npz") as path:
        arrays = {re.sub(r"\W+", "_", name): values for name, values in found.items()}
        np.savez_compressed(
            path, allow_pickle=False, images=examples.images, ids=np.array(examples.names), **arrays
        )
    with atomic_path(directory / "explanations.csv") as path:
        pd.DataFrame(rows).to_csv(path, index=False)
    return {
        "task": "explain",
        "data": {"name": config["data"]["name"]},
        "model": {"name": config["model"]["name"]},
        "seed": config["seed"],
        "method": method.name,
        "views": list(method.views),
        "examples": rows,
    }


def _caption(row: Mapping[str, Any]) -> str:
    name = row["label"] or Path(row["image"]).name
    text = f"{name}\n{row['predicted']} {row['probability']:.2f}"
    if row["explained"] != row["predicted"]:
        text += f"\nexplained: {row['explained']} {row['probability of explained']:.2f}"
    return text
