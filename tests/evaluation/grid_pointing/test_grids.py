from __future__ import annotations

import torch
from torch import nn

from saliency_lab.attribution.maps import maps
from saliency_lab.evaluation.grid_pointing.grids import SeparateCells, cell_shares, cut, tiled


def random(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_cells_lie_row_by_row():
    cells = random(2, 4, 3, 5, 6)
    grid = tiled(cells, 2)
    assert grid.shape == (2, 3, 10, 12)
    for number, (top, left) in enumerate([(0, 0), (0, 6), (5, 0), (5, 6)]):
        assert torch.equal(grid[:, :, top : top + 5, left : left + 6], cells[:, number])
    assert torch.equal(cut(grid, 2).view_as(cells), cells)


def test_shares_by_hand():
    found = torch.zeros(2, 4, 4)
    found[0, 0, 0], found[0, 3, 1], found[0, 2, 2] = 3, 1, -8
    shares = cell_shares(found, 2)
    assert shares[0].tolist() == [0.75, 0, 0.25, 0]
    assert shares[1].tolist() == [0.25] * 4
    # Chance would be said of a map that could not be computed.
    found[0, 1, 1], found[1, 1, 1] = torch.nan, torch.inf
    assert cell_shares(found, 2).isnan().all()


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 5),
    ).double()  # fmt: skip


def test_each_logit_reads_its_own_cell_only():
    model, classes = network(), torch.tensor([3, 0, 4, 1])
    grid = random(2, 3, 12, 12).double()
    separate = SeparateCells(model, classes, 2)
    logits = separate(grid)
    cells = [grid[:, :, :6, :6], grid[:, :, :6, 6:], grid[:, :, 6:, :6], grid[:, :, 6:, 6:]]
    expected = [model(cell)[:, c] for cell, c in zip(cells, classes.tolist(), strict=True)]
    torch.testing.assert_close(logits, torch.stack(expected, 1))


def test_the_gradient_lies_in_the_own_cell_by_construction():
    separate = SeparateCells(network(), torch.tensor([3, 0, 4, 1]), 2)
    found = maps(separate, random(2, 3, 12, 12).double(), targets=torch.tensor([2, 1]), names="all")
    for view, values in found.maps.items():
        shares = cell_shares(values, 2)
        if values.flatten(1).any(1).all():
            assert shares[0, 2] == 1, view
            assert shares[1, 1] == 1, view


def test_the_modes_of_the_network_are_left_alone():
    model = nn.Sequential(nn.BatchNorm2d(3), network()).train()
    model[0].eval()  # frozen, while the rest is trained
    modes = [module.training for module in model.modules()]
    assert SeparateCells(model, torch.tensor([3, 0, 4, 1]), 2).training
    assert [module.training for module in model.modules()] == modes
