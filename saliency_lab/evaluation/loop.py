"""What goes through Lightning's test loop in an evaluation."""

from __future__ import annotations

import pytorch_lightning as pl
from torch import nn

from saliency_lab.data.batch import Batch


class Measured(pl.LightningModule):
    """A network that goes through the test loop untouched: the evaluator calls it, in parts."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing: a forward of the whole batch here would be one that no one reads."""
