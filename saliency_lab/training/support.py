"""Training of support models: a classifier's logits, the wrong class's lowered by α.

Source: Rodrigues, Boutry, Najman, "Transforming gradient-based techniques into interpretable
methods", 2024.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saliency_lab.attribution.methods.gad import SupportModels, SupportTraining
from saliency_lab.data.batch import Batch
from saliency_lab.data.module import ImageData
from saliency_lab.models.classifier import Classifier
from saliency_lab.models.optimizers import constant
from saliency_lab.runs.agreement import agreed
from saliency_lab.runs.directory import held
from saliency_lab.runs.files import atomic_path
from saliency_lab.training.checkpoints import Checkpoints, newest_checkpoint

log = logging.getLogger(__name__)

NETWORK = "network.pt"

MakeTrainer = Callable[[Path, Sequence[pl.Callback], int], pl.Trainer]
"""From a directory, callbacks and a number of epochs to a Trainer."""


class SupportClassifier(Classifier):
    """Trains a network of a pair of classes towards another's logits, of both classes.

    Args:
        network: what is trained, images (B, C, H, W) to logits (B, 2).
        explained: gives the logits that are aimed at; left unchanged.
        alpha: what is subtracted from the logit of the class that is not the label.
        settings: of the training.
        seed: of whatever draws while training.
    """

    def __init__(
        self,
        network: nn.Module,
        explained: nn.Module,
        alpha: float,
        settings: SupportTraining,
        seed: int,
    ) -> None:
        super().__init__(
            network,
            2,
            seed=seed,
            optimizer=functools.partial(torch.optim.Adam, lr=settings.learning_rate),
            scheduler=functools.partial(constant, max_epochs=settings.epochs),
        )
        self.alpha = alpha
        # In a tuple, so that its weights are no part of this one's state.
        self._explained = (explained,)

    def on_fit_start(self) -> None:
        self._explained[0].to(self.device)

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        # A network without batch norm and dropout that is trained to be itself (α = 0) has no
        # gradient at all: no further epoch could change it.
        if self.epoch_metrics["train/loss"] == 0:
            self.trainer.should_stop = True

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean squared error of both raw logits."""
        with torch.no_grad():
            wanted = distanced_logits(self._explained[0](batch.image), batch.label, self.alpha)
        return F.mse_loss(logits, wanted)


def distanced_logits(logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Logits (B, 2) with α subtracted from each image's class that is not its label (B,)."""
    wrong = F.one_hot(1 - labels, 2).to(logits.dtype)
    return logits - alpha * wrong


@dataclass(frozen=True)
class SupportPlace:
    """Where support models of a classifier and pair are kept, and how they are made.

    Attributes:
        directory: of this classifier, pair and settings alone.
        settings: of the training.
        seed: of the order of the images.
        make_trainer: a Trainer with as many processes as there are.
    """

    directory: Path
    settings: SupportTraining
    seed: int
    make_trainer: MakeTrainer

    def models(
        self, network: nn.Module, data: Callable[[], ImageData], *, controls: bool
    ) -> SupportModels:
        """The support models, read where they are kept and trained where they are not.

        Every process of a job calls this alike. A killed training goes on from its last epoch.

        Args:
            network: the explained one, images (B, C, H, W) to logits (B, 2); left unchanged.
            data: makes the images of the two classes, in this order; asked only to train.
            controls: also those of α = 0 alone, one per α, each in the order of the images
                in which that α's was trained.

        Raises:
            UserError: another process is training one of them, or what the data raise.
        """
        explained = copy.deepcopy(network).eval().requires_grad_(False)
        loaded = functools.cache(data)
        alphas = self.settings.alphas
        distanced = [
            self._network(explained, loaded, alpha, order) for order, alpha in enumerate(alphas)
        ]
        retrained = []
        if controls:
            retrained = [
                distanced[order] if alpha == 0 else self._network(explained, loaded, 0.0, order)
                for order, alpha in enumerate(alphas)
            ]
        found = SupportModels(tuple(distanced), tuple(retrained))
        return found.each(functools.partial(_first_equal, [network]))

    def _network(
        self, explained: nn.Module, data: Callable[[], ImageData], alpha: float, order: int
    ) -> nn.Module:
        place = self.directory / f"alpha-{alpha:g}-order-{order}"
        checkpoints = Checkpoints(place)
        trainer = self.make_trainer(place, [checkpoints], self.settings.epochs)
        network = copy.deepcopy(explained)
        with contextlib.ExitStack() as stack:
            # Only the first process holds the directory; the others wait for what it found.
            if agreed(trainer, lambda: _is_kept(place, network, stack)):
                network.load_state_dict(_kept_state(place))
            else:
                self._train(network, explained, data(), alpha, order, trainer, place)
        return network.eval().requires_grad_(False)

    def _train(
        self,
        network: nn.Module,
        explained: nn.Module,
        data: ImageData,
        alpha: float,
        order: int,
        trainer: pl.Trainer,
        place: Path,
    ) -> None:
        resume = agreed(trainer, lambda: newest_checkpoint(place))
        said = "training" if resume is None else f"resuming from {resume.name}:"
        log.info("%s support model, α = %g, order %d", said, alpha, order)
        # Lightning's fit leaves every module's mode as it finds it.
        network.requires_grad_(True).train()
        seed = self.seed + 1000 * order
        module = SupportClassifier(network, explained, alpha, self.settings, seed)
        data.setup("fit")
        # The splits are open and stay as they are; from here on the seed decides the order alone.
        data.seed = seed
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        network.cpu()
        explained.cpu()
        if trainer.is_global_zero:
            with atomic_path(place / NETWORK) as path:
                torch.save(network.state_dict(), path)
            # With the optimizer's state they are several times as large, and of no more use.
            shutil.rmtree(place / "checkpoints")


def _first_equal(known: list[nn.Module], network: nn.Module) -> nn.Module:
    """The first network of the same weights, so that its maps are computed once.

    Without batch norm and dropout all that are trained with α = 0 stay the explained one.
    """
    state = network.state_dict()
    for other in known:
        if all(torch.equal(value, state[name]) for name, value in other.state_dict().items()):
            return other
    known.append(network)
    return network


def _is_kept(place: Path, network: nn.Module, stack: contextlib.ExitStack) -> bool:
    """Whether a support model lies there whole; if not, the place is held to train it."""
    if _fits(place, network):
        return True
    stack.enter_context(held(place))
    return _fits(place, network)  # by the process that held it until now


def _fits(place: Path, network: nn.Module) -> bool:
    if not (place / NETWORK).is_file():
        return False
    try:
        found = _kept_state(place)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        log.warning("%s cannot be read (%s): retraining it", place / NETWORK, error)
        return False
    return found.keys() == network.state_dict().keys()


def _kept_state(place: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(place / NETWORK, map_location="cpu", weights_only=True)
    return state
