"""Are the pixels of a map needed, or enough, to learn the classes? ROAR and KAR."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import pandas as pd
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from saliency_lab.data.batch import Batch
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Better, Evaluator, Measured, Score
from saliency_lab.evaluation.context import Context, Found, Need
from saliency_lab.evaluation.retraining.alteration import altered, pixel_ranks
from saliency_lab.evaluation.retraining.conditions import (
    Condition,
    Fill,
    Order,
    Retrained,
    chosen_conditions,
)
from saliency_lab.evaluation.retraining.findings import accuracies, leakage, unlearned
from saliency_lab.evaluation.rows.format import IMAGE_COLUMNS
from saliency_lab.models.checkpoint import load_classifier

# Which way the accuracy of the retrained network speaks for the map.
_BETTER: dict[str, Better] = {"remove": "lower", "keep": "higher", "mask": None}

TIES, NOISE = "retraining/ties", "retraining/road"
"""What the random streams of an image's ranks and imputation are called."""


class Retraining(Evaluator):
    """Accuracy of networks trained anew on images that were altered by their maps.

    The run's method explains the run's classifier on all training images; of each of them the
    most important pixels are replaced (ROAR, `remove`) or all others (KAR, `keep`), a network is
    trained on these from its start, and tested on test images altered in the same way. Where the
    important pixels are gone accuracy should fall; where they are all that is left it should stay.

    What a map leaves says something by its shape alone. The order `mask` measures that artefact:
    networks are trained on which pixels are replaced and see no image at all. Where they tell the
    classes apart, the other orders' accuracies are that much too high.

    - `correct`: whether the retrained network is right, averaged over the seeds;
    - `probability`: what it gives the image's label, averaged likewise.

    Args:
        fractions: shares of the pixels that count as the most important.
        orders: of `remove`, `keep` and `mask`.
        fills: `mean`, that of the training images per channel, or `road`, noisy linear imputation.
        seeds: one training each.
        epochs: of each training; None: as many as the classifier's own.
        batch_size: images per step of each training; None: as many as in the classifier's own.
            With few images smaller steps are more, which a network may need to learn at all.
        learning_rate: of each training; None: the classifier's own. Images with most of their
            pixels gone may need a smaller one.
        train_limit: training images, balanced over the classes; None: as many as the classifier's
            own training had.

    Source: Hooker, Erhan, Kindermans, Kim, "A benchmark for interpretability methods in deep neural
    networks", 2019; Rong et al., "A consistent and efficient evaluation strategy for attribution
    methods", 2022.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score("correct", None, 0, 1),
        Score("probability", None, 0, 1),
    )
    keys: ClassVar[tuple[str, ...]] = ("order", "fill", "fraction", "seed")
    conditions: ClassVar[tuple[str, ...] | None] = ("order", "fill", "fraction")
    columns: tuple[str, ...] = ("correct", "probability")
    selects: ClassVar[tuple[str, ...]] = ("fractions", "orders", "fills")
    needs: ClassVar[frozenset[Need]] = frozenset({"source", "retrained"})
    # Two trainings on the same images differ by as much as tests over images find significant.
    tested: ClassVar[bool] = False

    def __init__(
        self,
        *,
        fractions: Sequence[Annotated[float, Ge(0), Le(1)]] = (0.1, 0.5, 0.9),
        orders: Sequence[Order] = ("remove", "keep", "mask"),
        fills: Sequence[Fill] = ("mean", "road"),
        seeds: Sequence[Annotated[int, Ge(0)]] = (0, 1),
        epochs: Annotated[int, Gt(0)] | None = None,
        batch_size: Annotated[int, Gt(0)] | None = None,
        learning_rate: Annotated[float, Gt(0)] | None = None,
        train_limit: Annotated[int, Gt(0)] | None = None,
    ) -> None:
        lists = {"fractions": fractions, "orders": orders, "fills": fills, "seeds": seeds}
        for name, values in lists.items():
            if not values or len(set(values)) != len(values):
                raise UserError(
                    f"Expected `evaluator.retraining.{name}` to be a list of different values, "
                    f"but got {list(values)}."
                )
        self.trained_on = chosen_conditions(orders, fills, fractions)
        self.seeds = tuple(seeds)
        self.epochs, self.batch_size, self.train_limit = epochs, batch_size, train_limit
        self.learning_rate = learning_rate

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        """Rows of every view, condition and seed."""
        retrained = _retrained(context)
        images = (batch.image * 255).round().to(torch.uint8)
        for view, values in maps.maps.items():
            ranks = pixel_ranks(values, context.generator(batch.ids, TIES))
            for condition in self.trained_on:
                noise = context.generator(batch.ids, NOISE)
                shown = altered(images, ranks, condition, retrained.mean, noise)
                for seed in self.seeds:
                    network = _network(context, retrained, (view, condition, seed))
                    found = _answers(network, shown.to(batch.image.device), batch.label)
                    keys = {
                        "order": condition.order,
                        "fill": condition.fill,
                        "fraction": condition.fraction,
                        "seed": seed,
                    }
                    yield Measured(view, keys, found)

    def image_scores(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Averages over the seeds."""
        named = [*IMAGE_COLUMNS, *(self.conditions or ())]
        grouped = rows.groupby(named, observed=True, sort=False)[list(self.columns)]
        return grouped.mean().reset_index()

    def better(self, score: str, condition: Mapping[str, object]) -> Better:
        """Lower where important pixels were removed, higher where they were kept."""
        return _BETTER[str(condition["order"])]

    def facts(self, rows: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
        """Accuracies by condition and seed, and what the masks alone say of the classes."""
        found, leaks = accuracies(rows), leakage(scores)
        return {
            "accuracies": found.to_dict("records"),
            "leakage": leaks,
            "warnings": [*unlearned(rows), *(one["sentence"] for one in leaks if one["leaks"])],
        }

    def tables(self, rows: pd.DataFrame, resamples: int) -> dict[str, pd.DataFrame]:
        """Accuracies by condition and seed."""
        return {"accuracies": accuracies(rows)}


def _retrained(context: Context) -> Retrained:
    if context.retrained is None:
        raise TypeError("Expected the context to have passed `require`")
    return context.retrained


def _network(context: Context, retrained: Retrained, key: tuple[str, Condition, int]) -> nn.Module:
    path = retrained.checkpoints[key]
    found: nn.Module = context.kept(
        ("retrained", path), lambda: load_classifier(path, "evaluator.retraining")
    )
    return found


@torch.no_grad()
def _answers(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Whether the network is right, and what it gives the labels, of uint8 images."""
    # On the device for as long as it is asked: there may be a hundred of them.
    logits = network.to(images.device)(images.float() / 255).float()
    network.cpu()
    given = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    return {"correct": (logits.argmax(1) == labels).double(), "probability": given.double()}
