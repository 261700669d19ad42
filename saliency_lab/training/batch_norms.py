"""Whether batch norms make a network another one in evaluation than it was in training."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from saliency_lab.data.module import ImageData
from saliency_lab.evaluation.rows.intervals import Interval, accuracy_interval
from saliency_lab.frozen import intact_logits

_IMAGES = 256
_AT_ONCE = 32
# Less than this, and the average over an epoch in which the network was learning may explain it.
_SLACK = 0.03


def lagging_accuracy(network: nn.Module, data: ImageData, trained: float) -> Interval | None:
    """The accuracy in evaluation mode on training images, if it is clearly below that of training.

    Batch norms use each batch's own statistics while they are trained and a running mean of them
    afterwards. Where the last steps change the weights a lot, that mean is of weights that are
    gone, and the network that is evaluated is worse than the one that was trained (Wu and Johnson
    2021, "Rethinking 'Batch' in BatchNorm", section 3).

    Args:
        network: images (B, C, H, W) in [0, 1] to logits (B, K).
        data: whose training images are asked, 256 of them at most.
        trained: accuracy of the last epoch, in 0 to 1, as it was counted while training.

    Returns:
        The accuracy with its 95 % interval; None where the network has no running statistics or
        the interval does not lie below `trained`.
    """
    if not any(isinstance(m, _BatchNorm) and m.track_running_stats for m in network.modules()):
        return None
    labels = data.labels("train")
    count = min(len(labels), _IMAGES)
    chosen = np.sort(np.random.default_rng(data.seed).permutation(len(labels))[:count])
    correct = 0
    for part in np.array_split(chosen, -(-count // _AT_ONCE)):
        images = torch.from_numpy(data.images("train", part)).float().div(255)
        predicted = intact_logits(network, images).argmax(1).cpu().numpy()
        correct += int((predicted == labels[part]).sum())
    found = accuracy_interval(correct, count)
    return found if float(found.high) < trained - _SLACK else None
