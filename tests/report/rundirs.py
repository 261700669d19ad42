"""Run directories as the tasks leave them, made with numpy alone: a small network, true deletion.

The classifier is logits = V·tanh(W·x), whose gradient is written down, so that every row of a run
(prediction, probability, levels, areas) is what really follows from its images and maps. Images and
labels are the data's; each classifier has its own weights and each run its own time.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import torch
import yaml
from scipy import stats

from saliency_lab.evaluation.deletion.draws import drawn_fractions
from saliency_lab.evaluation.rows.format import (
    EXAMPLES,
    FORMAT,
    EvaluationSummary,
    EvaluatorSummary,
    TrainingSummary,
    rows_path,
    scores_path,
    table_path,
)

FRACTIONS = (0.0, 0.03, 0.05, 0.07, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer")
PAPER_VIEWS = ("original", "positive", "negative", "active", "inactive")
MAP = ["method", "view"]
CURVE = [*MAP, "mode", "fill"]
CONDITIONS = ["mode", "fill"]
SCORES = ("allegiance", "probability", "logit", "deleted")
COST = {
    "maps_forwards": 1.0,
    "maps_backwards": 10.0,
    "maps_seconds": 0.0034750951,
    "maps_peak_bytes": 993365504.0,
    "forwards": 7.4696,
    "backwards": 0.0,
    "seconds": 0.013624561,
    "peak_bytes": 1193365504.0,
}


@dataclass(frozen=True)
class Network:
    """A two-layer classifier of flattened pixels, fixed by its name."""

    first: np.ndarray
    second: np.ndarray

    @classmethod
    def drawn(cls, features: int, classes: int, name: str) -> Network:
        """What all classifiers of these sizes share, and a part of their own."""
        parts = []
        for seed, scale in ((7, 1.0), (crc32(name.encode()), 0.5)):
            rng = np.random.default_rng(seed)
            first = rng.normal(size=(24, features)) * 4 / np.sqrt(features)
            parts.append((scale * first, scale * rng.normal(size=(classes, 24)) * 2))
        first, second = (sum(part).astype(np.float32) for part in zip(*parts, strict=True))
        return cls(first, second)

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


@dataclass(frozen=True)
class MadeUp:
    """An evaluator of no one: a score per image and map, drawn at random, and its conditions."""

    score: str = "usefulness"
    better: str | None = "higher"
    conditions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    sections: str | None = None


def write_evaluation(
    outputs: Path,
    *,
    data: str = "cifar10",
    model: str = "resnet18",
    name: str = "paper/seed=42",
    method: str = "gradient",
    views: Sequence[str] = PAPER_VIEWS,
    fills: Sequence[str] = ("black", "white"),
    images: np.ndarray | None = None,
    count: int = 40,
    size: int = 16,
    shown: int = 12,
    classes: Sequence[str] = CLASSES,
    split: str = "test",
    seed: int = 42,
    control: bool = False,
    config: Mapping[str, object] = MappingProxyType({}),
    settings: Mapping[str, object] = MappingProxyType({}),
    checkpoint: int | None = None,
    epoch: int | None = None,
    started: str | None = None,
    deletion: bool = True,
    draws: int | None = None,
    made_up: Mapping[str, MadeUp] = MappingProxyType({}),
    warnings: Sequence[str] = (),
) -> Path:
    """Write one finished evaluation; returns its directory under outputs/evaluate.

    `config` is added to the run's config.yaml, whose method and view are given; `settings` to
    those of deletion, of whose fractions each image is asked for `draws`; `checkpoint`
    tells classifiers apart (default: the seed), `epoch` is its; `made_up` are
    further evaluators by label; `started` is when the run began (default: a time of its own).
    """
    path = outputs / "evaluate" / data / model / name
    images = (
        synthetic_images(count, size, crc32(f"{data} {split}".encode()))
        if images is None
        else images
    )
    features = int(np.prod(images.shape[1:]))
    weights = seed if checkpoint is None else checkpoint
    network = Network.drawn(features, len(classes), f"{model} {weights}")
    rng = np.random.default_rng(seed)
    run = Measured(
        network=network,
        images=images,
        intact=network.logits(images),
        ids=[f"{split}/{index:05d}" for index in range(len(images))],
        labels=_labels(images, classes),
        method=method,
    )
    kept: dict[str, np.ndarray] = {
        "ids": np.array(run.ids[:shown]),
        "labels": run.labels[:shown],
        "predictions": run.predictions[:shown],
        "images": np.rint(images[:shown] * 255).astype(np.uint8),
    }
    maps = {view: _maps(run, view, rng) for view in views}
    kept |= {f"map:{method}/{view}": maps[view][:shown].astype(np.float16) for view in views}
    path.mkdir(parents=True)
    evaluators = {}
    if deletion:
        levels = {view: _levels(maps[view]) for view in views}
        kept |= {f"deletion|levels:{view}": levels[view][:shown] for view in views}
        evaluators["deletion"] = _write_deletion(path, run, levels, fills, settings, rng, draws)
    for label, one in made_up.items():
        evaluators[label] = _write_made_up(path, run, views, label, one)
    np.savez_compressed(path / EXAMPLES, **kept)
    correct = run.labels == run.predictions
    known = EvaluationSummary(
        format=FORMAT,
        status="finished",
        data={
            "name": data,
            "split": split,
            "images": len(images),
            "classes": list(classes),
            "fingerprint": sha256(f"{data} {split}".encode()).hexdigest()[:16],
        },
        model={"name": model},
        seed=seed,
        method=method,
        views=list(views),
        control=control,
        checkpoint={
            "path": f"outputs/train/{data}/{model}/seed-{seed}",
            "sha256": sha256(f"{model} {weights}".encode()).hexdigest(),
            "epoch": epoch,
        },
        accuracy=_interval(correct, rng),
        evaluators=evaluators,
        skipped={"nonfinite": 0},
        warnings=list(warnings),
        seconds=83.5,
    )
    stored = {
        "method": {"name": method},
        "view": {"names": list(views), "channels": "max"},
        "evaluator": {label: one.settings for label, one in evaluators.items()},
        "labels": {label: label for label in evaluators},
        "seed": seed,
    }
    summary = {"task": "evaluate", **known.model_dump(exclude={"running", "cost"})}
    _write_common(path, summary, stored | dict(config), started)
    return path


@dataclass(frozen=True)
class Measured:
    """What a run knows of its images before any of them is masked."""

    network: Network
    images: np.ndarray
    intact: np.ndarray
    ids: list[str]
    labels: np.ndarray
    method: str

    @property
    def predictions(self) -> np.ndarray:
        return self.intact.argmax(1)


def write_training(
    outputs: Path,
    *,
    data: str = "cifar10",
    model: str = "resnet18",
    name: str = "seed=42",
    epochs: int = 30,
    finished: bool = True,
    classes: Sequence[str] = CLASSES,
    in_evaluation: Mapping[str, object] | None = None,
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
    known = {
        "status": "finished",
        "data": {"name": data, "images": 50000, "classes": list(classes), "fingerprint": "c0ffee"},
        "model": {"name": model, "parameters": 11_173_962},
        "seed": 42,
        "epochs": epochs,
        "test": test,
        "train": {"loss": 0.2, "accuracy": 0.951, "in_evaluation": in_evaluation},
        "best": {"epoch": epochs - 1, "value": 0.78, "monitor": "val/accuracy"},
        "confusion": confusion.tolist(),
        "seconds": 5400.0,
    }
    summary = {"task": "train", **TrainingSummary.model_validate(known).model_dump()}
    _write_common(path, summary if finished else {"task": "train", "status": "running"})
    return path


def _write_common(
    path: Path,
    summary: dict[str, object],
    config: Mapping[str, object] = MappingProxyType({}),
    started: str | None = None,
) -> None:
    minutes = crc32(path.as_posix().encode()) % 60
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
        "started": started or f"2025-01-05T10:{minutes:02d}:00+00:00",
    }
    (path / "config.yaml").write_text(yaml.safe_dump({"task": summary["task"], **config}))
    (path / "environment.json").write_text(json.dumps(environment))
    (path / "summary.json").write_text(json.dumps(summary))


def _labels(images: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """What all classifiers have in common, wrong for every sixth image."""
    shared = Network.drawn(int(np.prod(images.shape[1:])), len(classes), "the truth")
    labels = shared.logits(images).argmax(1)
    labels[::6] = (labels[::6] + 1) % len(classes)
    return labels


def _maps(run: Measured, view: str, rng: np.random.Generator) -> np.ndarray:
    fields = run.network.gradients(run.images)
    chosen = fields[np.arange(len(run.images)), run.predictions]
    others = np.delete(fields.transpose(1, 0, 2, 3, 4), 0, axis=0)
    views: dict[str, Callable[[], np.ndarray]] = {
        "positive": lambda: np.maximum(chosen, 0),
        "negative": lambda: np.maximum(-chosen, 0),
        "active": lambda: np.abs(chosen) * (chosen >= others.max(0)),
        "inactive": lambda: np.abs(chosen) * (chosen <= others.min(0)),
    }
    values = views.get(view, lambda: np.abs(chosen))()
    if run.method != "gradient":
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


def _write_deletion(
    path: Path,
    run: Measured,
    levels: Mapping[str, np.ndarray],
    fills: Sequence[str],
    settings: Mapping[str, object],
    rng: np.random.Generator,
    draws: int | None,
) -> EvaluatorSummary:
    parts = [_rows(run, view, levels[view], fill) for view in levels for fill in fills]
    rows = pd.concat(parts, ignore_index=True)
    scores = pd.concat([_image_scores(part) for part in parts], ignore_index=True)
    if draws is not None:
        starts = torch.from_numpy(rng.random(len(run.ids)))
        chosen = np.asarray(FRACTIONS)[drawn_fractions(FRACTIONS, draws, starts).numpy()]
        asked = set(zip(np.repeat(run.ids, draws), chosen.ravel(), strict=True))
        places = zip(rows["sample_id"], rows["fraction"], strict=True)
        rows = rows[[place in asked for place in places]]
    scores_path(path, "deletion").parent.mkdir()
    _categories(rows, CURVE).to_parquet(rows_path(path, "deletion"), index=False)
    _categories(scores, CURVE).to_parquet(scores_path(path, "deletion"), index=False)
    _curves(rows).to_csv(table_path(path, "deletion", "curves"), index=False)
    known = {"protocol": "threshold", "modes": ["deletion"], "fills": list(fills)}
    return EvaluatorSummary(
        name="deletion",
        settings=known | {"fractions": None, "draws": draws} | dict(settings),
        selects=["modes", "fills"],
        conditions=CONDITIONS,
        scores=[
            {"name": "allegiance", "better": "lower", "low": 0.0, "high": 1.0},
            {"name": "probability", "better": "lower", "low": 0.0, "high": 1.0},
            {"name": "logit", "better": "lower"},
            {"name": "deleted", "low": 0.0, "high": 1.0},
        ],
        sections="saliency_lab.evaluation.deletion.sections",
        means=_means(scores, CONDITIONS, dict.fromkeys(SCORES, "lower") | {"deleted": None}, rng),
        comparisons=_comparisons(scores, CONDITIONS, "allegiance", "lower", rng),
        facts={"protocol": "threshold", "fractions": list(FRACTIONS)}
        | ({} if draws is None else {"draws": draws}),
        cost=COST,
    )


def _write_made_up(
    path: Path, run: Measured, views: Sequence[str], label: str, one: MadeUp
) -> EvaluatorSummary:
    """Rows that are scores at once, which differ by view and condition."""
    rng = np.random.default_rng(crc32(label.encode()))
    places = list(itertools.product(*one.conditions.values()))
    frames = []
    for at, view in enumerate(views):
        for place in places:
            frame = _image_columns(run, view).assign(
                **dict(zip(one.conditions, place, strict=True))
            )
            values = rng.normal(0.3 + 0.1 * at, 0.1, len(run.ids)).clip(0, 1)
            frames.append(frame.assign(**{one.score: values}))
    names = list(one.conditions)
    rows = pd.concat(frames, ignore_index=True)
    _categories(rows, [*MAP, *names]).to_parquet(rows_path(path, label), index=False)
    return EvaluatorSummary(
        name=label,
        settings={"of": 1},
        conditions=names,
        scores=[{"name": one.score, "better": one.better, "low": 0.0, "high": 1.0}],
        sections=one.sections,
        means=_means(rows, names, {one.score: one.better}, rng),
        comparisons=_comparisons(rows, names, one.score, one.better, rng),
        cost=COST,
    )


def _image_columns(run: Measured, view: str) -> pd.DataFrame:
    known = {"sample_id": run.ids, "index": np.arange(len(run.ids)), "label": run.labels}
    return pd.DataFrame({**known, "method": run.method, "view": view})


def _categories(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    return table.astype(dict.fromkeys(names, "category"))


def _rows(run: Measured, view: str, levels: np.ndarray, fill: str) -> pd.DataFrame:
    """Image by image, fraction by fraction."""
    every = np.arange(len(run.images))
    parts = []
    for index, fraction in enumerate(FRACTIONS):
        mask = (levels <= index)[:, None]
        filled = np.where(mask, {"black": 0.0, "white": 1.0}.get(fill, 0.5), run.images)
        logits = run.network.logits(filled)
        powers = np.exp(logits - logits.max(1, keepdims=True))
        part = _image_columns(run, view).assign(mode="deletion", fill=fill, fraction=fraction)
        parts.append(
            part.assign(
                deleted=mask.mean((1, 2, 3)).astype(np.float32),
                prediction=logits.argmax(1),
                agrees=logits.argmax(1) == run.predictions,
                probability=(powers / powers.sum(1, keepdims=True))[every, run.predictions],
                logit=logits[every, run.predictions],
            )
        )
    rows = pd.concat(parts, ignore_index=True)
    return rows.sort_values(["index", "fraction"], kind="stable", ignore_index=True)


def _image_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """Of one curve: the areas of each image, and the share deleted at the end."""
    first = rows[rows["fraction"] == FRACTIONS[0]]
    found = first[["sample_id", "index", "label", *CURVE]].reset_index(drop=True)
    columns = {"allegiance": "agrees", "probability": "probability", "logit": "logit"}
    for score, column in columns.items():
        values = rows[column].to_numpy(np.float64).reshape(-1, len(FRACTIONS))
        found[score] = np.trapezoid(values, FRACTIONS, axis=1)
    found["deleted"] = rows["deleted"].to_numpy(np.float64).reshape(-1, len(FRACTIONS))[:, -1]
    return found


def _curves(rows: pd.DataFrame) -> pd.DataFrame:
    found = rows.groupby([*CURVE, "fraction"], sort=False).agg(
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


def _interval(values: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    means = rng.choice(values, (200, len(values))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"value": float(np.mean(values)), "low": float(low), "high": float(high)}


def _means(
    scores: pd.DataFrame,
    conditions: Sequence[str],
    better: Mapping[str, str | None],
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    found = []
    for key, group in scores.groupby([*MAP, *conditions], sort=False):
        place = {"method": key[0], "view": key[1]}
        place["condition"] = dict(zip(conditions, key[2:], strict=True))
        for score, side in better.items():
            interval = _interval(group[score].to_numpy(np.float64), rng)
            found.append(place | {"score": score, "better": side, "images": len(group)} | interval)
    return found


def _comparisons(
    scores: pd.DataFrame,
    conditions: Sequence[str],
    main: str,
    better: str | None,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """Every pair under a condition, in the order of their names, with Holm's correction."""
    found: list[dict[str, Any]] = []
    groups = scores.groupby(list(conditions), sort=False) if conditions else [((), scores)]
    for key, group in groups:
        wide = group.pivot(index="sample_id", columns=MAP, values=main)
        for a, b in itertools.combinations(wide.columns, 2):
            difference = (wide[a] - wide[b]).to_numpy(np.float64)
            interval = _interval(difference, rng)
            # The exact test of a dozen images with ties takes most of a second.
            test = stats.wilcoxon(difference, method="asymptotic") if difference.any() else None
            p = float(test.pvalue) if test else 1.0
            found.append(
                {
                    "a": dict(zip(MAP, a, strict=True)),
                    "b": dict(zip(MAP, b, strict=True)),
                    "condition": dict(zip(conditions, key, strict=True)),
                    "score": main,
                    "better": better,
                    "difference": interval.pop("value"),
                    **interval,
                    "p": p,
                }
            )
    most = 0.0
    for place, one in enumerate(sorted(found, key=lambda one: one["p"])):
        most = max(most, min(1.0, one["p"] * (len(found) - place)))
        one["p_holm"] = most
    return found
