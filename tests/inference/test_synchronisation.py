"""Inside a batch, the curves alone ask the device for numbers: a work list, and one check."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from saliency_lab.attribution.core.views import VIEWS
from saliency_lab.attribution.maps import maps
from saliency_lab.evaluation.deletion.curves import masked_scores
from saliency_lab.evaluation.deletion.masking import MaskingJob
from saliency_lab.evaluation.deletion.removal import deletion_levels
from saliency_lab.imputation.fills import fill_images

# Reading one number, and asking how many there are: what makes the host wait for a GPU.
_WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique")


class Waits(TorchDispatchMode):
    """Collects the operations that would make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name().split(".")[0]
        # A boolean mask as an index is a hidden nonzero.
        if name == "aten::index" and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        ):
            name = "aten::masked_select"
        if name in _WAITING:
            self.met.append(name)
        return func(*args, **(kwargs or {}))


def test_the_counter_counts() -> None:
    numbers = torch.rand(3)
    with Waits() as waits:
        numbers.sum().item()
        numbers[numbers > 0.5]
    assert waits.met == ["aten::_local_scalar_dense", "aten::masked_select"]


def test_maps_wait_for_nothing_and_curves_twice() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    images = torch.rand(6, 3, 8, 8)
    with Waits() as waits:
        found = maps(model, images, names=VIEWS)
        levels = {view: deletion_levels(found.maps[view]) for view in VIEWS}
    assert waits.met == []
    jobs = [
        MaskingJob(levels[view], fill_images(images, fill))
        for view in VIEWS
        for fill in ("black", "white")
    ]
    with Waits() as waits:
        masked_scores(model, images, jobs, 13, batch_size=16, intact=found.logits)
    # The work list, and one look at whether all answers are finite.
    assert waits.met == ["aten::nonzero", "aten::_local_scalar_dense"]
