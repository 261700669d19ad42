"""A small evaluation without Lightning or files: a fixed network, a few drawn images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saliency_lab.data.shapes import Shapes
from saliency_lab.evaluation.base import Evaluator
from saliency_lab.evaluation.context import Context, Method
from saliency_lab.evaluation.loop import MAPS, Plan, measure_block
from saliency_lab.evaluation.rows.shards import Shards
from saliency_lab.inference.engine import Engine

IMAGES = 11


class Fixed(nn.Module):
    """A network whose weights are written down as a formula: no generator, no initialisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 5, stride=4), nn.Conv2d(6, 8, 3)
        self.head = nn.Linear(200, 10)
        for number, parameter in enumerate(self.parameters(), start=1):
            places = torch.arange(parameter.numel(), dtype=torch.float64)
            values = torch.sin((places + 1) * (0.7 + 0.31 * number)).view(parameter.shape)
            parameter.data = (values * (0.4 if parameter.dim() > 1 else 0.1)).float()

    def forward(self, images: Tensor) -> Tensor:
        features = self.second(self.first(images).relu()).relu().flatten(1)
        # Where the image is bright decides, not how bright it is.
        return 0.4 * self.head(features - features.mean(1, keepdim=True))


def shapes(folder: Path, **settings: Any) -> Shapes:
    """A data set of `IMAGES` test images, decoded below `folder`."""
    given = {"train_images": 7, "test_images": IMAGES, "cache_dir": str(folder / "cache")}
    return Shapes(**{**given, **settings})


def measured(
    folder: Path,
    evaluators: Mapping[str, Evaluator],
    method: Method,
    *,
    block: int = 4,
    network: nn.Module | None = None,
    **settings: Any,
) -> Plan:
    """A whole evaluation, block by block in this process; its shards lie below `folder`."""
    data = shapes(folder)
    shards = {label: Shards(folder / label, IMAGES, block) for label in (MAPS, *evaluators)}
    chosen: dict[str, Any] = {"split": "test", "seed": 3, "engine": Engine(), **settings}
    plan = Plan(evaluators, shards, method, data=data, **chosen)
    data.eval_split, data.eval_batch_size = plan.split, block
    data.setup("test")
    context = None
    for loaded in data.test_dataloader():
        batch = data.on_after_batch_transfer(loaded, 0)
        if context is None:
            model = plan.engine.prepare((network or Fixed()).eval(), batch.image)
            context = Context(model, method, data, plan.split, plan.seed)
        measure_block(plan, context, batch)
    return plan
