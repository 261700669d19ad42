"""Draw maps of test images or of a person's own: `python -m saliency_lab explain`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.maps import maps, require_finite
from saliency_lab.errors import UserError, in_section, unknown_choice
from saliency_lab.evaluation.context import Method
from saliency_lab.models.classifier import Classifier
from saliency_lab.report.drawing.figures import example_grid, figure_bytes
from saliency_lab.report.drawing.palette import label_of
from saliency_lab.report.drawing.terminal import print_table
from saliency_lab.runs.directory import begin, finish, held
from saliency_lab.runs.files import atomic_path
from saliency_lab.runs.processes import process_rank
from saliency_lab.tasks.classifiers import configured_classifier, require_usable
from saliency_lab.tasks.components import checked, configured_method
from saliency_lab.tasks.examples import (
    Examples,
    correct_examples,
    image_files,
    own_examples,
    resize_of,
)
from saliency_lab.tasks.foreign_maps import with_stored_maps
from saliency_lab.tasks.support import pair_classifier, supported
from saliency_lab.training.components import data_module


@dataclass
class Explained:
    """The maps of all examples for one class, or each for the class that is predicted."""

    name: str | None
    targets: Tensor
    maps: dict[str, NDArray[np.float32]]


def run(config: Mapping[str, Any], directory: Path) -> None:
    """Write the grid of images and maps, the maps themselves and a table of predictions.

    Raises:
        UserError: no trained classifier, an unreadable image, an unknown target class.
    """
    if config["per_class"] < 1:
        raise UserError(f"Expected `per_class` to be 1 or more, but got {config['per_class']}")
    checked(config)
    method = configured_method(config)
    require_usable(config, method)
    checkpoint = config["classifier"]["path"]
    asked, model = pair_classifier(config, method, configured_classifier(config))
    classes = list(model.facts["classes"])
    wanted = target_classes(config["target"], classes)
    # Where support models are missing, all processes train them.
    method = supported(asked, method, model, _device(config), controls=False)
    if process_rank() > 0:
        return  # a handful of images is the work of one process
    with held(directory):
        # All that may be refused comes before anything of an earlier run is cleared away.
        model = model.to(_device(config))
        if config["images"]:
            files = image_files(config["images"])
            examples = own_examples(files, model, resize_of(config, model))
            method = with_stored_maps(method, None, model.facts["input_shape"])
        else:
            data = data_module(asked)
            data.download()
            examples = correct_examples(data, model, int(config["per_class"]), int(config["seed"]))
            method = with_stored_maps(method, data.ids("test"), data.input_shape)
        begin(directory, config, overwrite=True, checkpoint={"path": str(checkpoint)})
        found = []
        each: Sequence[int | None] = wanted or [None]
        for target in each:
            targets = examples.logits.argmax(1)
            if target is not None:
                targets.fill_(target)
            values = _maps(model, examples, targets, method, int(config["seed"]))
            found.append(Explained(None if target is None else classes[target], targets, values))
        summary = _written(directory, config, examples, found, classes, method)
        finish(directory, {**summary, "checkpoint": {"path": str(checkpoint)}})
    columns = ["image", "label", "predicted", "probability", "explained"]
    if wanted:
        columns.append("probability of explained")
    rows = [[row[name] for name in columns] for row in summary["examples"]]
    wrote = directory / "figures" / ("" if len(wanted) > 1 else "grid.png")
    print_table("Explained", columns, rows, wrote=wrote)


def _device(config: Mapping[str, Any]) -> torch.device:
    wanted = config["trainer"]["accelerator"]
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def target_classes(target: object, classes: Sequence[str]) -> list[int]:
    """The classes that `target` asks for, each once; none where it is None.

    Args:
        target: a class's name or number, or a list of them.
        classes: names by number.

    Raises:
        UserError: an unknown class, or an empty list.
    """
    if target is None:
        return []
    listed = target if isinstance(target, list) else [target]
    if not listed:
        raise UserError("Expected `target` to be a class or a list of classes, but got []")
    return list(dict.fromkeys(_class_index(str(one), classes) for one in listed))


def _class_index(target: str, classes: Sequence[str]) -> int:
    if target in classes:
        return list(classes).index(target)
    if target.isdigit() and int(target) < len(classes):
        return int(target)
    raise unknown_choice("target", target, classes)


def _maps(
    model: Classifier, examples: Examples, targets: Tensor, method: Method, seed: int
) -> dict[str, NDArray[np.float32]]:
    found = []
    # A few at a time: a person's own images may be many.
    for start in range(0, len(examples.names), 16):
        rows = slice(start, start + 16)
        with in_section("method", getattr(method.source, "keywords", {})):
            batch = maps(
                model.network,
                torch.from_numpy(examples.images[rows]).float().div(255),
                method.source,
                method.views,
                targets[rows],
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
    found: Sequence[Explained],
    classes: Sequence[str],
    method: Method,
) -> dict[str, Any]:
    rows = []
    arrays: dict[str, NDArray[Any]] = {}
    for one, own in zip(found, _own_names(found), strict=True):
        mine = _rows(examples, one.targets, classes)
        _draw(directory, f"grid{own}", examples, one.maps, mine, overlay=False)
        if config["overlay"]:
            _draw(directory, f"overlay{own}", examples, one.maps, mine, overlay=True)
        arrays |= {_array_name(f"{name}{own}"): values for name, values in one.maps.items()}
        rows += mine
    with atomic_path(directory / "maps.npz") as path:
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


def _rows(examples: Examples, targets: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    probabilities = examples.logits.float().softmax(1)
    return [
        {
            "image": name,
            "label": examples.labels[i],
            "predicted": classes[int(probabilities[i].argmax())],
            "probability": float(probabilities[i].max()),
            "explained": classes[int(targets[i])],
            "probability of explained": float(probabilities[i, targets[i]]),
        }
        for i, name in enumerate(examples.names)
    ]


def _draw(
    directory: Path,
    name: str,
    examples: Examples,
    found: Mapping[str, NDArray[np.float32]],
    rows: Sequence[Mapping[str, Any]],
    *,
    overlay: bool,
) -> None:
    captions = [_caption(row) for row in rows]
    pictures = examples.images.transpose(0, 2, 3, 1)
    figure = example_grid(pictures, found, captions, overlay=overlay)
    for kind in ("png", "pdf"):
        with atomic_path(directory / "figures" / f"{name}.{kind}") as path:
            path.write_bytes(figure_bytes(figure, kind))


def _own_names(found: Sequence[Explained]) -> list[str]:
    """What files and arrays of a class of several are told apart by: its name, and its place
    where names differ in nothing that a file's or an array's may hold.
    """
    if len(found) == 1:
        return [""]
    plain = [_array_name(str(one.name)) for one in found]
    return [
        f"-{_file_name(str(one.name))}" + (f"_{place}" if plain.count(plain[place]) > 1 else "")
        for place, one in enumerate(found)
    ]


def _array_name(name: str) -> str:
    """A map's name in `maps.npz`; `_map` is added to names that are taken."""
    plain = re.sub(r"\W+", "_", name)
    return f"{plain}_map" if plain in ("file", "images", "ids", "allow_pickle") else plain


def _file_name(text: str) -> str:
    return re.sub(r"[^\w-]+", "_", text)


def _caption(row: Mapping[str, Any]) -> str:
    name = row["label"] or Path(row["image"]).name
    text = f"{name}\n{row['predicted']} {row['probability']:.2f}"
    if row["explained"] != row["predicted"]:
        text += f"\nexplained: {row['explained']} {row['probability of explained']:.2f}"
    return text
