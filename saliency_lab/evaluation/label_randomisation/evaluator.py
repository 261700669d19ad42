"""Does a map show what the labels taught? The same network, trained on shuffled labels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

import pandas as pd
import torch
from annotated_types import Ge, Gt, Le
from torch import nn

from saliency_lab.data.batch import Batch
from saliency_lab.errors import UserError
from saliency_lab.evaluation.base import Evaluator, Measured, Role, Score
from saliency_lab.evaluation.context import Context, Found, Need
from saliency_lab.evaluation.other_network import other_classifier, training_labels
from saliency_lab.evaluation.randomisation.gate import map_verdict
from saliency_lab.evaluation.randomisation.similarity import RANGES, SIMILARITIES, similarities


class LabelRandomisation(Evaluator):
    """Similarity of each map to that of a network which learned labels that mean nothing.

    `train data.training_labels=shuffled` trains the other network: the same one, on the same
    images, until it knows the shuffled labels by heart. Both explain the class that the run's own
    network predicts. A map that is the same for both cannot show what a label has to do with its
    image. A gate, as in `evaluator=randomisation`, with the same thresholds.

    Args:
        other: the other network's checkpoint or its training's directory.
        share: of the most important pixels that `top_k` compares.
        passed_below: passed where the interval of the mean rank correlation lies below.
        failed_above: failed where that interval lies above; undecided otherwise.

    Source: Adebayo et al., "Sanity checks for saliency maps", 2018, section 4.
    """

    scores: ClassVar[tuple[Score, ...]] = tuple(
        Score(name, None, *RANGES[name]) for name in SIMILARITIES
    )
    role: ClassVar[Role] = "gate"
    needs: ClassVar[frozenset[Need]] = frozenset({"source", "other_model"})

    def __init__(
        self,
        *,
        other: str | None = None,
        share: Annotated[float, Gt(0), Le(1)] = 0.1,
        passed_below: Annotated[float, Ge(-1), Le(1)] = 0.3,
        failed_above: Annotated[float, Ge(-1), Le(1)] = 0.5,
    ) -> None:
        self.other, self.share = other, share
        self.passed_below, self.failed_above = passed_below, failed_above

    def check(self, context: Context, name: str) -> None:
        """Refuse a run without the other network, or with one of other classes or weights."""
        super().check(context, name)
        networks = context.model.original, self._network(context)
        shapes, others = ([tuple(p.shape) for p in n.parameters()] for n in networks)
        if shapes != others:
            raise UserError(
                f"Expected `evaluator.{name}.other` to be the run's own network, trained on "
                f"shuffled labels, but '{self.other}' is a network of other weights: "
                f"{sum(map(math.prod, others)):,} in {len(others)} tensors, not "
                f"{sum(map(math.prod, shapes)):,} in {len(shapes)}"
            )
        own, other = (network.state_dict() for network in networks)
        if own.keys() == other.keys() and all(
            torch.equal(own[key].cpu(), other[key].cpu()) for key in own
        ):
            raise UserError(
                f"Expected `evaluator.{name}.other` to be another training, with "
                f"data.training_labels=shuffled, but '{self.other}' is the run's own network"
            )

    def measure(self, context: Context, batch: Batch, maps: Found) -> Iterable[Measured]:
        """Rows of every view."""
        network = self._network(context).to(batch.image.device)
        after = context.maps_of(batch.image, batch.ids, maps.targets, network).maps
        for view, values in after.items():
            yield Measured(view, {}, similarities(maps.maps[view], values, share=self.share))

    def facts(self, rows: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
        """The verdict on every map beside its interval and the thresholds."""
        table = [
            {"method": method, "view": view}
            | map_verdict(group, self.passed_below, self.failed_above)
            for (method, view), group in rows.groupby(["method", "view"], observed=True, sort=False)
        ]
        thresholds = {"passed_below": self.passed_below, "failed_above": self.failed_above}
        found: dict[str, Any] = {"gate": table, "thresholds": thresholds}
        if self.other is not None and training_labels(self.other) == "given":
            found["warnings"] = [
                f"{self.other} was trained on the labels as given, not on shuffled ones, so these "
                "verdicts say how alike the maps of two trainings are, and nothing about labels"
            ]
        return found

    def _network(self, context: Context) -> nn.Module:
        key = "evaluator.label_randomisation.other"
        if self.other is None:
            raise UserError(
                f"Expected `{key}` to be a checkpoint of the same network trained with "
                "data.training_labels=shuffled, but got null."
            )
        classifier = other_classifier(context, self.other, key)
        classes = list(context.data.class_names)
        if list((classifier.facts or {}).get("classes", classes)) != classes:
            raise UserError(
                f"Expected `{key}` to be of the classes {', '.join(classes[:5])}…, but "
                f"'{self.other}' is of others."
            )
        network: nn.Module = classifier.network
        return network
