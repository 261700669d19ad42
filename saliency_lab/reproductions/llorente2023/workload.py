"""How much arithmetic the reference experiment is, and so about how long it takes on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

# Passes per image of the paper's evaluation: one forward, an input-only backward (a forward's
# worth) for each of ten classes, and the forwards of the distinct masked images of six curves.
EVALUATION_PASSES = 1 + 10 + 62
# What the paper did not ask, from fifty and twenty curves of a thousand images.
_PASSES = {
    "test": EVALUATION_PASSES,
    "train-split": EVALUATION_PASSES,
    "standard": 11 + 516,
    "shifts": 11 + 206,
    "grids": 11,
}
_LIMITS = {"standard": 1000, "shifts": 1000, "grids": 10}
# A forward, and a backward to weights and inputs that is worth two.
TRAINING_PASSES = 3

SUSTAINED_TFLOPS = 5.0
"""What a GPU is assumed to sustain in float32 without TF32: a quarter of an A100's peak."""
STEP_SECONDS = 0.005
"""What a training step takes at least: launches, and the loader in the main process."""


@dataclass(frozen=True)
class Workload:
    """One column of the paper: a forward's GFLOP per image, its images, and what is trained."""

    gflop: float
    train_images: int
    test_images: int
    head_only: bool = False
    epochs: int = 50
    batch: int = 128

    @property
    def tflop(self) -> float:
        """Training, and the evaluation of both splits."""
        training = self.train_images * self.epochs * (1 if self.head_only else TRAINING_PASSES)
        evaluation = (self.train_images + self.test_images) * EVALUATION_PASSES
        return self.gflop * (training + evaluation) / 1e3

    def seconds(
        self, kind: str, step: float, forward: float, *, epochs: int, limit: int | None
    ) -> float:
        """What a job takes at rates measured on a machine, without starting and reading images.

        Args:
            kind: of the column's jobs (`train`, `grids`, `test`, `train-split`, …).
            step: seconds of a training step for one of its images.
            forward: seconds of a forward pass for one image.
            epochs: of the training.
            limit: images of a split, where not all are used.
        """
        train, test = (_fewer(count, limit) for count in (self.train_images, self.test_images))
        if kind == "train":
            return epochs * train * step + test * forward
        images = _fewer(train if kind == "train-split" else test, _LIMITS.get(kind))
        return images * _PASSES[kind] * forward

    @property
    def hours(self) -> float:
        """On a GPU that sustains `SUSTAINED_TFLOPS`."""
        steps = self.epochs * -(-self.train_images // self.batch)
        return (self.tflop / SUSTAINED_TFLOPS + steps * STEP_SECONDS) / 3600


def _fewer(count: int, limit: int | None) -> int:
    return count if limit is None else min(count, limit)


def _cifar10(gflop: float) -> Workload:
    return Workload(gflop, train_images=50_000, test_images=10_000)


def _imagenette(gflop: float, head_only: bool = False) -> Workload:
    return Workload(gflop, train_images=9_469, test_images=3_925, head_only=head_only)


WORKLOADS: dict[str, Workload] = {
    "cifar10_basic_cnn": _cifar10(0.00654),
    "cifar10_resnet18": _cifar10(0.0750),
    "imagenette_basic_cnn": _imagenette(0.320),
    "imagenette_resnet18": _imagenette(3.63),
    "imagenette_resnet18_pretrained": _imagenette(3.63, head_only=True),
    "imagenette_convnext_pretrained": _imagenette(8.91, head_only=True),
}
"""By the names of conf/experiment/paper, in the paper's order."""
