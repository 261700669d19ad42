"""Run directories as the tasks leave them, made with numpy alone: a small network, true deletion.

The classifier is logits = V·tanh(W·x), whose gradient is written down, so that every row of a run
(prediction, probability, levels, areas) is what really follows from its images and maps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import yaml

FRACTIONS = (0.0, 0.03, 0.05, 0.07, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer")
PAPER_KEYS = tuple(
    ("gradient", view) for view in ("original", "positive", "negative", "active", "inactive")
)
Key = tuple[str, str]


@dataclass(frozen=True)
class Network:
    """A two-layer classifier of flattened pixels, fixed by its seed."""

    first: np.ndarray
    second: np.ndarray

    @classmethod
    def drawn(cls, features: int, classes: int, seed: int) -> Network:
        rng = np.random.default_rng(seed)
        first = rng.normal(size=(24, features)) * 4 / np.sqrt(features)
        return cls(first.astype(np.float32), rng.normal(size=(classes, 24)).astype(np.float32) * 2)

    def logits(self, images: np.ndarray) -> np.ndarray:
        hidden = np.tanh((images.reshape(len(images), -1) - 0.5) @ self.first.T)
        return hidden @ self.second.T

    def gradients(self, images: np.ndarray) -> np.ndarray:
        """Of every logit to the input, (N, K, C, H, W)."""
        hidden = np.tanh((images.reshape(len(images), -1) - 0.5) @ self.first.T)
        slopes = self.second[None] * (1 - hidden**2)[:, None]
        return (slopes @ self.first).reshape(len(images), len(self.second), *images.shape[1:])


def synthetic_images(count: int, size: int, seed: int) -> np.ndarray:
    """Coloured discs on smooth grounds, (N, 3, size, size) in [0, 1]."""
    rng = np.random.default_rng(seed)
    across = np.linspace(-1, 1, size)
    x, y = np.meshgrid(across, across)
    images = np.empty((count, 3, size, size), dtype=np.float32)
    for image in images:
        ground, ink, slope = rng.uniform(size=(3, 3))
        left, top = rng.uniform(-0.5, 0.5, size=2)
        disc = np.hypot(x - left, y - top) < rng.uniform(0.25, 0.6)
        shade = ground[:, None, None] + 0.3 * slope[:, None, None] * (x + y)
        image[:] = np.clip(np.where(disc, ink[:, None, None], shade), 0, 1)
    return images


def write_evaluation(
    outputs: Path,
    *,
    data: str = "cifar10",
    model: str = "resnet18",
    name: str = "paper/seed=42",
    keys: Sequence[Key] = PAPER_KEYS,
    fills: Sequence[str] = ("black", "white"),
    images: np.ndarray | None = None,
    count: int = 40,
    size: int = 16,
    shown: int = 12,
    classes: Sequence[str] = CLASSES,
    comparisons: bool = True,
    split: str = "test",
    seed: int = 42,
    control: bool = False,
    config: Mapping[str, object] = MappingProxyType({}),
    checkpoint: int | None = None,
) -> Path:
    """Write one finished evaluation; returns its directory under outputs/evaluate.

    `config` is added to the run's config.yaml, whose method and view are those of `keys`;
    `checkpoint` tells classifiers apart (default: the seed).
    """
    path = outputs / "evaluate" / data / model / name
    images = synthetic_images(count, size, seed) if images is None else images
    network = Network.drawn(int(np.prod(images.shape[1:])), len(classes), 7)
    ids = [f"{split}/{index:05d}" for index in range(len(images))]
    intact = network.logits(images)
    predictions = intact.argmax(1)
    rng = np.random.default_rng(seed)
    wrong = rng.uniform(size=len(images)) < 0.25
    labels = np.where(wrong, (predictions + 1) % len(classes), predictions)
    kept: dict[str, np.ndarray] = {
        "ids": np.array(ids[:shown]),
        "labels": labels[:shown],
        "predictions": predictions[:shown],
        "images": np.rint(images[:shown] * 255).astype(np.uint8),
    }
    rows = []
    for key in keys:
        maps = _maps(network, images, predictions, key, rng)
        levels = _levels(maps)
        kept[f"map:{key[0]}/{key[1]}"] = maps[:shown].astype(np.float16)
        kept[f"levels:{key[0]}/{key[1]}"] = levels[:shown]
        for fill in fills:
            rows.append(_rows(network, images, intact, levels, ids, labels, key, fill))
    table = pd.concat(rows, ignore_index=True)
    path.mkdir(parents=True)
    np.savez_compressed(path / "examples.npz", **kept)
    table.to_parquet(path / "rows.parquet", index=False)
    curves = _curves(table)
    curves.to_csv(path / "curves.csv", index=False)
    summary = {
        "task": "evaluate",
        "status": "finished",
        "data": {
            "name": data,
            "split": split,
            "images": len(images),
            "classes": list(classes),
            "fingerprint": f"{abs(hash((data, split))) % 16**8:08x}",
        },
        "model": {"name": model},
        "seed": seed,
        "control": control,
        "checkpoint": {"path": f"outputs/train/{data}/{model}/seed-{seed}", "epoch": 30}
        | {"sha256": sha256(str(seed if checkpoint is None else checkpoint).encode()).hexdigest()},
        "accuracy": _interval(~wrong, rng),
        "protocol": "paper",
        "fractions": list(FRACTIONS),
        "areas": _areas(table, rng),
        "comparisons": _comparisons(table, rng) if comparisons else [],
        "cost": {
            f"{method}/{view}": {
                "maps_forwards": 1.0,
                "maps_backwards": 10.0,
                "maps_seconds": 0.0034750951,
                "curves_forwards": 7.4696,
                "curves_backwards": 0.0,
                "curves_seconds": 0.013624561,
                "peak_bytes": 1193365504.0,
            }
            for method, view in keys
        },
        "skipped": {"unreadable": 0},
        "seconds": 83.5,
    }
    names = list(dict.fromkeys(method for method, _ in keys))
    views = {"names": list(dict.fromkeys(view for _, view in keys)), "channels": "max"}
    known = {"method": {"name": "+".join(names)}, "view": views, "seed": seed} | dict(config)
    _write_common(path, summary, known)
    return path


def write_training(
    outputs: Path,
    *,
    data: str = "cifar10",
    model: str = "resnet18",
    name: str = "seed=42",
    epochs: int = 30,
    finished: bool = True,
    classes: Sequence[str] = CLASSES,
) -> Path:
    """Write one training run; returns its directory under outputs/train."""
    path = outputs / "train" / data / model / name
    path.mkdir(parents=True)
    epoch = np.arange(epochs)
    learnt = 1 - np.exp(-epoch / 8)
    pd.DataFrame(
        {
            "epoch": epoch,
            "train/loss": 2.3 * np.exp(-epoch / 8),
            "train/accuracy": 0.1 + 0.85 * learnt,
            "val/loss": 2.3 * np.exp(-epoch / 9) + 0.35 * learnt,
            "val/accuracy": 0.1 + 0.68 * learnt,
        }
    ).to_csv(path / "metrics.csv", index=False)
    rng = np.random.default_rng(3)
    confusion = rng.integers(0, 40, (len(classes), len(classes)))
    confusion += 300 * np.eye(len(classes), dtype=int)
    test = {"accuracy": 0.7612, "low": 0.7527, "high": 0.7694, "loss": 0.81, "images": 10000}
    summary = {
        "task": "train",
        "status": "finished" if finished else "running",
        "data": {"name": data, "images": 50000, "classes": list(classes), "fingerprint": "c0ffee"},
        "model": {"name": model, "parameters": 11_173_962},
        "seed": 42,
        "epochs": epochs,
        "test": test,
        "train": {"loss": 0.2, "accuracy": 0.951},
        "best": {"epoch": epochs - 1, "value": 0.78, "monitor": "val/accuracy"},
        "confusion": confusion.tolist(),
        "seconds": 5400.0,
    }
    _write_common(path, summary if finished else {"task": "train", "status": "running"})
    return path


def _write_common(
    path: Path,
    summary: dict[str, object],
    config: Mapping[str, object] = MappingProxyType({}),
) -> None:
    environment = {
        "python": "3.11.7",
        "platform": "Linux-6.1-x86_64",
        "cpu": "AMD EPYC 7B13",
        "cores": 16,
        "threads": 8,
        "gpu": [],
        "versions": {"saliency-lab": "0.1.0", "torch": "2.15.0", "timm": "1.0.31", "wandb": None},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": False,
        "seed": 42,
        "command": f"saliency_lab {summary['task']}",
        "started": "2025-01-05T10:00:00+00:00",
    }
    (path / "config.yaml").write_text(yaml.safe_dump({"task": summary["task"], **config}))
    (path / "environment.json").write_text(json.dumps(environment))
    (path / "summary.json").write_text(json.dumps(summary))


def _maps(
    network: Network, images: np.ndarray, predictions: np.ndarray, key: Key, rng
) -> np.ndarray:
    fields = network.gradients(images)
    chosen = fields[np.arange(len(images)), predictions]
    others = np.delete(fields.transpose(1, 0, 2, 3, 4), 0, axis=0)
    views: dict[str, Callable[[], np.ndarray]] = {
        "positive": lambda: np.maximum(chosen, 0),
        "negative": lambda: np.maximum(-chosen, 0),
        "active": lambda: np.abs(chosen) * (chosen >= others.max(0)),
        "inactive": lambda: np.abs(chosen) * (chosen <= others.min(0)),
    }
    values = views.get(key[1], lambda: np.abs(chosen))()
    if key[0] != "gradient":
        values = np.abs(values + rng.normal(scale=values.std() / 2, size=values.shape))
    maps = values.max(1)
    return maps / np.maximum(maps.max((1, 2), keepdims=True), 1e-12)


def _levels(maps: np.ndarray) -> np.ndarray:
    """The paper's protocol: deleted where map > t and map is not 0."""
    flat = maps.reshape(len(maps), -1)
    ordered = -np.sort(-flat, axis=1)
    levels = np.full(flat.shape, len(FRACTIONS), dtype=np.uint8)
    for index in range(len(FRACTIONS) - 1, 0, -1):
        threshold = ordered[:, round(FRACTIONS[index] * flat.shape[1])][:, None]
        levels[(flat > threshold) & (flat != 0)] = index
    return levels.reshape(maps.shape)


def _rows(network, images, intact, levels, ids, labels, key: Key, fill: str) -> pd.DataFrame:
    predicted = intact.argmax(1)
    every = np.arange(len(images))
    parts = []
    for index, fraction in enumerate(FRACTIONS):
        mask = (levels <= index)[:, None]
        logits = network.logits(np.where(mask, {"black": 0.0, "white": 1.0}.get(fill, 0.5), images))
        powers = np.exp(logits - logits.max(1, keepdims=True))
        parts.append(
            pd.DataFrame(
                {
                    "sample_id": ids,
                    "index": every,
                    "label": labels,
                    "method": key[0],
                    "view": key[1],
                    "mode": "deletion",
                    "fill": fill,
                    "fraction": fraction,
                    "deleted": mask.mean((1, 2, 3)).astype(np.float32),
                    "prediction": logits.argmax(1),
                    "agrees": logits.argmax(1) == predicted,
                    "probability": (powers / powers.sum(1, keepdims=True))[every, predicted],
                    "logit": logits[every, predicted],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _curves(table: pd.DataFrame) -> pd.DataFrame:
    columns = ["method", "view", "mode", "fill", "fraction"]
    found = table.groupby(columns, sort=False).agg(
        allegiance=("agrees", "mean"),
        probability=("probability", "mean"),
        logit=("logit", "mean"),
        deleted=("deleted", "mean"),
        images=("agrees", "size"),
    )
    spread = 1.96 * np.sqrt(found["allegiance"] * (1 - found["allegiance"]) / found.pop("images"))
    found.insert(1, "low", (found["allegiance"] - spread).clip(0))
    found.insert(2, "high", (found["allegiance"] + spread).clip(upper=1))
    return found.reset_index()


def _image_areas(table: pd.DataFrame) -> pd.DataFrame:
    wide = table.pivot_table(
        index=["method", "view", "mode", "fill"], columns=["sample_id", "fraction"], values="agrees"
    )
    return wide.T.groupby(level="sample_id").agg(lambda column: np.trapezoid(column, FRACTIONS)).T


def _interval(values: np.ndarray, rng) -> dict[str, float]:
    means = rng.choice(values, (200, len(values))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"value": float(np.mean(values)), "low": float(low), "high": float(high)}


def _areas(table: pd.DataFrame, rng) -> list[dict[str, object]]:
    return [
        dict(zip(("method", "view", "mode", "fill"), key, strict=True))
        | {"score": "allegiance", "area": found["value"]}
        | {"low": found["low"], "high": found["high"]}
        for key, values in _image_areas(table).iterrows()
        for found in [_interval(values.to_numpy(), rng)]
    ]


def _comparisons(table: pd.DataFrame, rng) -> list[dict[str, object]]:
    areas = _image_areas(table)
    found = []
    for (method, view, mode, fill), values in areas.iterrows():
        reference = ("gradient", "original", mode, fill)
        if (method, view) == reference[:2] or reference not in areas.index:
            continue
        interval = _interval((values - areas.loc[reference]).to_numpy(), rng)
        p = 0.0004 if interval["high"] < 0 or interval["low"] > 0 else 0.4
        found.append(
            {
                "a": {"method": method, "view": view},
                "b": {"method": "gradient", "view": "original"},
                "mode": mode,
                "fill": fill,
                "difference": interval["value"],
                "low": interval["low"],
                "high": interval["high"],
                "p": p,
                "p_holm": min(1.0, 4 * p),
            }
        )
    return found
