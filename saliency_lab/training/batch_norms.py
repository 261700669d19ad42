"""Batch norms whose running statistics do not fit the weights: found out, and taken anew."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any

import numpy as np
import pytorch_lightning as pl
import torch
from annotated_types import Gt
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from saliency_lab.data.batch import channels_last_pixels
from saliency_lab.data.module import ImageData
from saliency_lab.evaluation.rows.intervals import Interval, accuracy_interval
from saliency_lab.frozen import frozen, intact_logits, model_place
from saliency_lab.models.classifier import Classifier

log = logging.getLogger(__name__)

_ASKED = 256
_AT_ONCE = 32
# Less than this, and the average over an epoch in which the network was learning may explain it.
_SLACK = 0.03


def evaluated_accuracy(network: nn.Module, data: ImageData) -> Interval | None:
    """The accuracy in evaluation mode on training images, of a network with running statistics.

    Batch norms use each batch's own statistics while they are trained and a running mean of them
    afterwards. Where the last steps change the weights a lot, that mean is of weights that are
    gone, and the network that is evaluated is worse than the one that was trained (Wu and Johnson
    2021, "Rethinking 'Batch' in BatchNorm", section 3).

    Args:
        network: images (B, C, H, W) in [0, 1] to logits (B, K).
        data: whose training images are asked, 256 of them at most.

    Returns:
        The accuracy, in 0 to 1, with its 95 % interval; None where nothing has running statistics.
    """
    if not _with_statistics(network):
        return None
    labels = data.labels("train")
    chosen = _some(data, _ASKED)
    correct = 0
    for part in np.array_split(np.sort(chosen), -(-len(chosen) // _AT_ONCE)):
        predicted = intact_logits(network, _pixels(data, part)).argmax(1).cpu().numpy()
        correct += int((predicted == labels[part]).sum())
    return accuracy_interval(correct, len(chosen))


def lags(evaluated: Interval | None, trained: float) -> bool:
    """Whether the accuracy in evaluation is clearly below that of the last epoch, in training."""
    return evaluated is not None and float(evaluated.high) < trained - _SLACK


class PreciseBatchNorm(pl.Callback):
    """Takes the running statistics of batch norms anew at the end of each epoch.

    They become the plain means, over batches as in training, of the statistics that the epoch's
    final weights have, instead of a running mean over the weights before them (PreciseBN: Wu and
    Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3). The training itself is the same to
    the bit; what is validated, saved and tested is the network that was trained.

    Args:
        images: how many training images, drawn once by the seed; all where there are fewer.
    """

    def __init__(self, images: Annotated[int, Gt(1)] = 2048) -> None:
        self.images = images

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not _with_statistics(pl_module):
            log.warning(
                "callback=precise_batch_norm changes nothing: the network has no batch norms with "
                "running statistics"
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        # Before the validation, which comes ahead of the epoch's end.
        data = getattr(trainer, "datamodule", None)
        if not isinstance(pl_module, Classifier) or not isinstance(data, ImageData):
            raise TypeError("Expected a Classifier and ImageData")
        if trainer.is_last_batch:
            precision = trainer.strategy.precision_plugin.forward_context()
            renew_statistics(pl_module.network, data, self.images, precision)


def renew_statistics(
    network: nn.Module,
    data: ImageData,
    count: int,
    precision: AbstractContextManager[Any] | None = None,
) -> None:
    """Take means and variances of batch norms anew, over training images in training's batches.

    Batch norms in evaluation mode within a network in training mode are frozen on purpose and
    stay as they are. Everything else (dropout) is in evaluation mode meanwhile, nothing random is
    drawn, and no weight changes.

    Args:
        network: images (B, C, H, W) in [0, 1] to logits (B, K).
        data: whose training images and batch size are used.
        count: how many images, at most.
        precision: the context that forwards are computed in.
    """
    norms = [m for m in _with_statistics(network) if m.training or not network.training]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    chosen = _some(data, count)
    # In their drawn order: batches of neighbours would be batches of one class.
    parts = np.array_split(chosen, max(1, round(len(chosen) / data.batch_size)))
    device, _ = model_place(network, torch.empty(0))
    try:
        with frozen(network), torch.no_grad(), precision or nullcontext():
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the plain mean of all batches
                norm.train()
            for part in parts:
                network(_pixels(data, np.sort(part)).to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _with_statistics(network: nn.Module) -> list[_BatchNorm]:
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def _some(data: ImageData, count: int) -> NDArray[np.int64]:
    """Places of training images, drawn by the seed."""
    order = np.random.default_rng(data.seed).permutation(len(data.labels("train")))
    return order[:count]


def _pixels(data: ImageData, places: NDArray[np.int64]) -> Tensor:
    return channels_last_pixels(torch.from_numpy(data.images("train", places)))
