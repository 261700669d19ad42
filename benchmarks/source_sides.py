"""The sources that take many passes: ours, and the same by Captum as its documentation calls it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from captum.attr import (
    GradientShap,
    IntegratedGradients,
    KernelShap,
    Lime,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from torch import Tensor, nn

from saliency_lab.attribution.core.baselines import Baseline, baseline_images
from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.core.superpixels import segment_means, superpixel_labels
from saliency_lab.attribution.maps import maps
from saliency_lab.attribution.methods.gradient_shap import gradient_shap
from saliency_lab.attribution.methods.integrated_gradients import integrated_gradients
from saliency_lab.attribution.methods.kernel_shap import kernel_shap
from saliency_lab.attribution.methods.lime import lime
from saliency_lab.attribution.methods.occlusion import occlusion
from saliency_lab.attribution.methods.rise import rise
from saliency_lab.attribution.methods.smoothgrad import smoothgrad
from saliency_lab.inference.engine import PreparedModel

Peer = Callable[[nn.Module, Tensor, Tensor, int, int], Tensor]
"""From a model, images, targets, samples and images per pass to maps (B, H, W)."""

# What Captum's batches are set to: the sizes at which its passes are fastest here, per image size.
_FORWARDS = {32: 256, 128: 64, 224: 16}
_RECORDED = {32: 256, 128: 64, 224: 8}
_BASELINES: tuple[Baseline, ...] = ("black", "white", "blur", "uniform")


@dataclass(frozen=True)
class SourceCase:
    """One source of this program and its counterpart.

    Attributes:
        source: ours; takes `count=samples` unless `count` is empty.
        peer: Captum's, or a plain script where Captum has none.
        peer_name: what the peer is.
        equal: whether both define the same map, so that they are checked against each other.
        recorded: whether passes record a graph for a backward.
    """

    name: str
    source: Callable[..., Any]
    count: Literal["samples", "steps", ""]
    samples: int
    peer: Peer
    peer_name: str = "Captum"
    equal: bool = False
    recorded: bool = False

    def ours(
        self, prepared: PreparedModel, images: Tensor, targets: Tensor, samples: int, seed: int = 0
    ) -> Tensor:
        """Our maps (B, H, W) of these classes; signed where the source has no field."""
        source = partial(self.source, **{self.count: samples}) if self.count else self.source

        def part(rows: slice) -> Tensor:
            names = [f"{seed}/{place}" for place in range(len(images))[rows]]
            found = maps(
                prepared.model,
                images[rows],
                source,
                targets=targets[rows],
                generator=SampleGenerator(seed, names),
            )
            return found.maps["original"]

        return torch.cat(prepared.maps(part, len(images)))

    def theirs(self, model: nn.Module, images: Tensor, targets: Tensor, samples: int) -> Tensor:
        """The peer's maps (B, H, W)."""
        sizes = _RECORDED if self.recorded else _FORWARDS
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it sets requires_grad on its input
            return self.peer(model, images, targets, samples, sizes[images.shape[-1]])


def _largest(attribution: Tensor) -> Tensor:
    return attribution.detach().abs().amax(1)


def _smoothgrad(
    model: nn.Module, images: Tensor, targets: Tensor, samples: int, size: int
) -> Tensor:
    tunnel = NoiseTunnel(Saliency(model))
    found = []
    for image, target in zip(images.split(1), targets.split(1), strict=True):
        # One image at a time: the noise follows each image's own range.
        found.append(
            tunnel.attribute(
                image,
                nt_type="smoothgrad",
                nt_samples=samples,
                nt_samples_batch_size=min(samples, size),
                stdevs=0.15 * float(image.max() - image.min()),
                target=target,
                abs=False,
            )
        )
    return _largest(torch.cat(found))


def _integrated(
    model: nn.Module, images: Tensor, targets: Tensor, samples: int, size: int
) -> Tensor:
    return _largest(
        IntegratedGradients(model).attribute(
            images,
            baselines=0.0,
            target=targets,
            n_steps=samples,
            internal_batch_size=max(size, len(images)),
        )
    )


def _gradient_shap(
    model: nn.Module, images: Tensor, targets: Tensor, samples: int, size: int
) -> Tensor:
    """A distribution of black, white, blurred and noise images, like ours; no batch size."""
    method = GradientShap(model)
    found = []
    for image, target in zip(images.split(1), targets.split(1), strict=True):
        draws = SampleGenerator(0, [0])
        baselines = torch.cat([baseline_images(image, kind, draws) for kind in _BASELINES])
        found.append(
            method.attribute(image, baselines, n_samples=samples, stdevs=0.0, target=target)
        )
    return _largest(torch.cat(found))


def _superpixels(method: Any, images: Tensor, targets: Tensor, samples: int, size: int) -> Tensor:
    found = []
    for image, target in zip(images, targets.split(1), strict=True):
        labels = superpixel_labels(image, "slic", 50)
        found.append(
            method.attribute(
                image[None],
                baselines=segment_means(image, labels)[None],
                target=target,
                feature_mask=labels[None, None],
                n_samples=samples,
                perturbations_per_eval=size,
            )
        )
    return torch.cat(found)[:, 0].detach()


def _kernel_shap(
    model: nn.Module, images: Tensor, targets: Tensor, samples: int, size: int
) -> Tensor:
    return _superpixels(KernelShap(model), images, targets, samples, size)


def _lime(model: nn.Module, images: Tensor, targets: Tensor, samples: int, size: int) -> Tensor:
    return _superpixels(Lime(model), images, targets, samples, size)


def _occlusion(
    model: nn.Module, images: Tensor, targets: Tensor, samples: int, size: int
) -> Tensor:
    channels, side = images.shape[1], images.shape[-1]
    window, step = side // 8, side // 16
    found = Occlusion(model).attribute(
        images,
        sliding_window_shapes=(channels, window, window),
        strides=(channels, step, step),
        baselines=images.mean((2, 3), keepdim=True).expand_as(images),
        target=targets,
        perturbations_per_eval=max(1, size // len(images)),
    )
    return _largest(found)


def _plain_rise(
    model: nn.Module, images: Tensor, targets: Tensor, samples: int, size: int
) -> Tensor:
    """RISE as a person writes it: masks for all images at once, enlarged and cut, then forwards."""
    side, cells = images.shape[-1], 7
    step = -(-side // cells)
    masks = torch.empty(samples, 1, side, side)
    for place in range(samples):
        grid = (torch.rand(1, 1, cells + 1, cells + 1) < 0.5).float()
        large = F.interpolate(grid, scale_factor=step, mode="bilinear")
        row, column = torch.randint(0, step, (2,)).tolist()
        masks[place] = large[0, :, row : row + side, column : column + side]
    found = []
    with torch.no_grad():
        for image, target in zip(images, targets, strict=True):
            parts = [model(part * image).softmax(1)[:, target] for part in masks.split(size)]
            found.append(torch.tensordot(torch.cat(parts), masks[:, 0], 1) / samples / 0.5)
    return torch.stack(found)


SOURCES = (
    SourceCase("rise", rise, "samples", 1000, _plain_rise, "plain script"),
    SourceCase("smoothgrad", smoothgrad, "samples", 50, _smoothgrad, recorded=True),
    SourceCase(
        "integrated_gradients",
        integrated_gradients,
        "steps",
        50,
        _integrated,
        equal=True,
        recorded=True,
    ),
    SourceCase("gradient_shap", gradient_shap, "samples", 50, _gradient_shap, recorded=True),
    SourceCase(
        "gradient_shap_stratified",
        partial(gradient_shap, stratified=True),
        "samples",
        50,
        _gradient_shap,
        recorded=True,
    ),
    SourceCase("kernel_shap", kernel_shap, "samples", 500, _kernel_shap),
    SourceCase("lime", lime, "samples", 500, _lime),
    SourceCase("occlusion", occlusion, "", 225, _occlusion, equal=True),
)
