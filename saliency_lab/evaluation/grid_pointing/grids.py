"""Grids of images, what maps of them show per cell, and a network that keeps the cells apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def tiled(cells: Tensor, side: int) -> Tensor:
    """Images (B, side², C, H, W), row by row, as grids (B, C, side·H, side·W)."""
    grid = cells.unflatten(1, (side, side)).permute(0, 3, 1, 4, 2, 5)
    return grid.flatten(4, 5).flatten(2, 3)


def cut(grids: Tensor, side: int) -> Tensor:
    """Grids (B, C, side·H, side·W) as their cells (B·side², C, H, W), row by row."""
    cells = grids.unflatten(3, (side, -1)).unflatten(2, (side, -1))
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def cell_shares(maps: Tensor, side: int) -> Tensor:
    """The share of a map's positive part in each cell: (B, side·H, side·W) to (B, side²).

    Rows add up to 1; a map without a positive value shows nothing and gets 1/side² everywhere. Of
    a map that is not finite they are NaN.
    """
    energy = cut(maps.double().clamp_min(0)[:, None], side).sum((1, 2, 3)).view(len(maps), -1)
    total = energy.sum(1, keepdim=True)
    shares = energy / total.where(total > 0, torch.ones_like(total))
    shown = shares.where(total > 0, torch.full_like(shares, 1 / side**2))
    return shown.where(total.isfinite(), torch.full_like(shown, torch.nan))


class SeparateCells(nn.Module):
    """DiFull: every cell goes through the network by itself, and a logit reads one cell only.

    The j-th logit is that of class `classes[j]` for the cell j alone, so whatever a map shows of
    it in another cell is impossible evidence.

    Args:
        network: from images (n, C, H, W) to logits (n, K).
        classes: int64 (side²,), the class of each cell.
        side: cells in a row.

    Source: Rao, Böhle, Schiele, "Towards better understanding attribution methods", 2022, section
    3.1.
    """

    def __init__(self, network: nn.Module, classes: Tensor, side: int) -> None:
        super().__init__()
        self.network, self.side = network, side
        self.register_buffer("classes", classes, persistent=False)
        self.register_buffer("cells", torch.arange(side**2, device=classes.device), False)
        self.training = network.training  # `train` would reach into the network

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, side²) of grids (B, C, side·H, side·W)."""
        logits = self.network(cut(x, self.side))
        apart = logits.reshape(-1, self.side**2, logits.shape[1])
        chosen: Tensor = apart[:, self.cells, self.classes]
        return chosen
