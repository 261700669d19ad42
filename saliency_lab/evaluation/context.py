"""What an evaluator may ask for beside the maps: models, fields, other images' maps, masks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from saliency_lab.attribution.core.field import ClassField
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.core.sources import (
    Source,
    reads_layers,
    recomputes,
    source_output,
    takes_targets,
)
from saliency_lab.attribution.core.views import Channels, View
from saliency_lab.attribution.maps import BatchMaps, chosen_targets, maps, source_name, view_names
from saliency_lab.attribution.methods.gad import uses_support
from saliency_lab.data.batch import Batch
from saliency_lab.data.module import ImageData
from saliency_lab.errors import UserError
from saliency_lab.evaluation.retraining.conditions import Retrained
from saliency_lab.frozen import require_classes
from saliency_lab.inference.engine import PreparedModel
from saliency_lab.models.own_network import is_one_program

Need = Literal["masks", "fields", "source", "layers", "other_model", "support", "retrained"]
"""`masks`: ground-truth evidence of every image. `fields`: a signed field of any class. `source`:
the method can be asked for maps of other images and models. `layers`: the network's modules can be
met and changed one by one. `other_model`: the method says as much of a network that the run has not
trained, be it drawn anew. `support`: the method comes with support models and those that they are
compared with. `retrained`: networks were trained on images altered by the maps."""

Cached = TypeVar("Cached")


@dataclass(frozen=True)
class Method:
    """An attribution method and the views of it that are measured."""

    name: str
    source: Source
    views: tuple[View, ...]
    channels: Channels = "max"
    competitors: int | None = None
    recomputes: bool = True
    """Whether it can be asked for maps of other images and models; a file of maps cannot."""
    unprepared: Source | None = None
    """The source with its support models themselves, where those of `source` are fast copies."""

    @classmethod
    def of(cls, name: str, source: Source, view: Mapping[str, Any]) -> Method:
        """A method with the settings of the `view` group."""
        names = view_names(source, view["names"])
        channels, competitors = view["channels"], view["competitors"]
        return cls(name, source, names, channels, competitors, recomputes(source))

    def require(self, needs: frozenset[Need], evaluator: str) -> None:
        """Nothing, or a UserError that names what an evaluator needs and this method cannot give.

        Known before anything is loaded; what the data must give is the context's to say.
        """
        single = takes_targets(self.source)
        if "fields" in needs and (single or not self.recomputes):
            raise UserError(
                f"Expected `method` to give a signed field of every class for "
                f"evaluator={evaluator}, but {source_name(self.source)} does not"
            )
        if "other_model" in needs and uses_support(self.source):
            raise UserError(
                f"Expected `method` to need nothing but the network for evaluator={evaluator}, "
                f"which explains other networks, but {self.name} has support models that were "
                "trained from the run's own"
            )
        if "source" in needs and not self.recomputes:
            raise UserError(
                f"Expected `method` to be one that can explain other images and models for "
                f"evaluator={evaluator}, but {self.name} only has the maps in its file"
            )


@dataclass(frozen=True)
class Found:
    """The maps of a batch, as every evaluator gets them.

    Attributes:
        maps: view to (B, H, W), unscaled, on the images' device. Images whose maps are not finite
            hold zeros there and are dropped from the rows.
        targets: the explained classes, int64 (B,).
        logits: of the intact images, (B, K) float32.
    """

    maps: Mapping[str, Tensor]
    targets: Tensor
    logits: Tensor


@dataclass
class Context:
    """One run's models and data; the same object for every batch of a process.

    Attributes:
        model: the classifier made ready: `model.logits(images)` exactly, `model.scores(images)`
            through the screen if there is one, `model.original` the network itself.
        method: what the maps come from.
        data: class names, shape, masks, other images of either split.
        split: the images that are measured.
        seed: the run's; with a sample's id it decides every random number.
        training: the run directory of the classifier, where its further models are kept; None for
            a checkpoint that lies elsewhere.
        retrained: networks trained on images altered by the maps; None where no task trained any.
    """

    model: PreparedModel
    method: Method
    data: ImageData
    split: Literal["train", "test"]
    seed: int
    training: Path | None = None
    retrained: Retrained | None = None
    _kept: dict[object, Any] = field(default_factory=dict, repr=False)

    def generator(self, ids: Sequence[str], purpose: str) -> SampleGenerator:
        """Random streams of these samples, of their own for each purpose."""
        return SampleGenerator(self.seed, [f"{purpose}/{sample}" for sample in ids])

    def maps_of(
        self,
        images: Tensor,
        ids: Sequence[str],
        targets: Tensor | None = None,
        model: nn.Module | None = None,
        change: Callable[[nn.Module], nn.Module] | None = None,
    ) -> BatchMaps:
        """The run's method on other images or another model, in parts that fit into memory.

        Args:
            images: (B, C, H, W) in [0, 1], on the model's device.
            ids: the samples that the images belong to; the method's random numbers are theirs.
            targets: the explained classes (B,); None: those predicted by the model that is asked.
            model: None for the run's own.
            change: what is made of the run's network, and of the method's support models alike,
                before they are asked.
        """
        network, source = model, self.method.source
        if change is not None:
            network = change(self.model.original)
            source = _with_changed_support(self.method.unprepared or source, change)
        if network is None:
            network = self.model.original if reads_layers(source) else self.model.model

        def compute(rows: slice) -> BatchMaps:
            return maps(
                network,
                images[rows],
                source,
                self.method.views,
                None if targets is None else targets[rows],
                channels=self.method.channels,
                competitors=self.method.competitors,
                generator=SampleGenerator(self.seed, list(ids[rows])),
            )

        return BatchMaps.joined(self.model.maps(compute, len(ids)))

    def field_of(
        self, images: Tensor, ids: Sequence[str], model: nn.Module | None = None
    ) -> ClassField:
        """The signed per-class field of the run's method, of a few images at a time."""
        network = self.model.original if model is None else model
        generator = SampleGenerator(self.seed, list(ids))
        found: ClassField = source_output(self.method.source, network, images, generator=generator)
        return found

    def masks(self, batch: Batch) -> Tensor:
        """Ground-truth evidence, bool (B, H, W), on the images' device."""
        found = self.data.masks(self.split, batch.index.tolist())
        return torch.from_numpy(found).to(batch.image.device)

    def kept(self, key: object, make: Callable[[], Cached]) -> Cached:
        """What `make` gives, made once in this process: further models, reference data."""
        if key not in self._kept:
            self._kept[key] = make()
        made: Cached = self._kept[key]
        return made

    def require(self, needs: frozenset[Need], evaluator: str) -> None:
        """Nothing, or a UserError that names what an evaluator needs and this run cannot give."""
        if "masks" in needs and not self.data.has_masks(self.split):
            raise UserError(
                f"Expected `data` to have masks for evaluator={evaluator}, but {self.data.name} "
                "has none (a folder has them in masks/ beside its classes)"
            )
        self.method.require(needs, evaluator)
        if "layers" in needs and is_one_program(self.model.original):
            raise UserError(
                f"Expected `model` to be made of modules for evaluator={evaluator}, which changes "
                "single layers, but it is an exported program or TorchScript; give its code with "
                "model=python"
            )
        support = getattr(self.method.source, "keywords", {}).get("support")
        if "support" in needs and support is None:
            raise UserError(
                f"Expected `method` to be gad for evaluator={evaluator}, but got "
                f"{self.method.name}, which has no support models"
            )
        if "retrained" in needs and self.retrained is None:
            raise UserError(
                f"Expected the task evaluate for evaluator={evaluator}: nothing else trains the "
                "networks that it measures"
            )


def _with_changed_support(source: Source, change: Callable[[nn.Module], nn.Module]) -> Source:
    support = getattr(source, "keywords", {}).get("support")
    return source if support is None else functools.partial(source, support=support.each(change))


def found_maps(batch_maps: BatchMaps) -> Found:
    """Maps that an evaluator can sort and sum: those of images to be dropped are zero.

    Raises:
        UserError: the model has a single logit. Every run's logits pass here, so this is where
            accuracies, curves and probabilities that say nothing are kept from its rows.
    """
    require_classes(batch_maps.logits)
    clean = batch_maps.maps
    if not bool(batch_maps.finite.all()):
        keep = batch_maps.finite[:, None, None]
        clean = {view: torch.where(keep, values, 0) for view, values in clean.items()}
    logits = batch_maps.logits
    return Found(clean, chosen_targets(logits, batch_maps.targets), logits)
