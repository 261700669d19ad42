"""Schedules and optimizers against their closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import Parameter

from saliency_lab.models.optimizers import adamw, constant, cosine, sgd, step


def rates(schedule, epochs, **settings):
    optimizer = torch.optim.SGD([Parameter(torch.zeros(1))], lr=0.5)
    scheduler = schedule(optimizer, max_epochs=epochs, **settings)
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_constant():
    assert rates(constant, 4) == [0.5] * 4


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine(final):
    expected = [
        0.5 * (final + (1 - final) * (1 + math.cos(math.pi * epoch / 10)) / 2)
        for epoch in range(10)
    ]
    assert rates(cosine, 10, final=final) == pytest.approx(expected)
    peer = torch.optim.lr_scheduler.CosineAnnealingLR
    optimizer = torch.optim.SGD([Parameter(torch.zeros(1))], lr=0.5)
    scheduler = peer(optimizer, 10, eta_min=0.5 * final)
    others = []
    for _ in range(10):
        others.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates(cosine, 10, final=final) == pytest.approx(others)


def test_cosine_with_warm_up():
    found = rates(cosine, 8, warmup_epochs=3)
    assert found[:3] == pytest.approx([0.125, 0.25, 0.375])
    assert found[3] == pytest.approx(0.5)
    expected = [0.25 * (1 + math.cos(math.pi * epoch / 5)) for epoch in range(5)]
    assert found[3:] == pytest.approx(expected)


def test_warm_up_longer_than_the_training():
    assert rates(cosine, 2, warmup_epochs=5) == pytest.approx([0.5 / 6, 1 / 6])


def test_step():
    assert rates(step, 7, every=3, factor=0.1) == pytest.approx(
        [0.5, 0.5, 0.5, 0.05, 0.05, 0.05, 0.005]
    )


def test_adamw_of_the_paper():
    """Loshchilov and Hutter, 2019, algorithm 2, three steps by hand in float64."""
    gradients = [0.3, -0.2, 0.7]
    weight, first, second = 1.5, 0.0, 0.0
    parameter = Parameter(torch.tensor([1.5]))
    optimizer = adamw([parameter], lr=1e-3, weight_decay=0.01)
    for number, gradient in enumerate(gradients, start=1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = first / (1 - 0.9**number), second / (1 - 0.999**number)
        weight -= 1e-3 * 0.01 * weight
        weight -= 1e-3 * corrected[0] / (math.sqrt(corrected[1]) + 1e-8)
        parameter.grad = torch.tensor([gradient])
        optimizer.step()
    assert parameter.item() == pytest.approx(weight, abs=1e-6)


def test_sgd_with_nesterov_momentum():
    weight, velocity = 1.0, 0.0
    parameter = Parameter(torch.tensor([1.0]))
    optimizer = sgd([parameter], lr=0.1, momentum=0.9, weight_decay=0.01)
    for gradient in (0.5, -0.25, 1.0):
        decayed = gradient + 0.01 * weight
        velocity = 0.9 * velocity + decayed
        weight -= 0.1 * (decayed + 0.9 * velocity)
        parameter.grad = torch.tensor([gradient])
        optimizer.step()
    assert parameter.item() == pytest.approx(weight, abs=1e-6)


def test_adamw_is_given_its_betas():
    (group,) = adamw([Parameter(torch.zeros(1))], betas=(0.5, 0.75)).param_groups
    assert tuple(group["betas"]) == (0.5, 0.75)
