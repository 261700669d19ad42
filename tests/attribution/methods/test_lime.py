from __future__ import annotations

import numpy as np
import pytest
import torch

from saliency_lab.attribution.core.random_streams import SampleGenerator
from saliency_lab.attribution.core.superpixels import superpixel_labels
from saliency_lab.attribution.methods.lime import lime, ridge_coefficients

pytestmark = pytest.mark.usefixtures("float64")


def test_ridge_by_the_normal_equations():
    draw = np.random.default_rng(0)
    x, y, weights = draw.normal(size=(30, 5)), draw.normal(size=30), draw.uniform(size=30)
    for ridge in (0.0, 0.7):
        # A column of ones for the intercept, which is not penalised.
        full = np.column_stack([x, np.ones(30)])
        left = full.T @ (weights[:, None] * full)
        total = weights.sum()
        left[:5, :5] += ridge * total * np.eye(5)
        expected = np.linalg.solve(left, full.T @ (weights * y))[:5]
        found = ridge_coefficients(*(torch.from_numpy(a) for a in (x, y, weights)), ridge * total)
        np.testing.assert_allclose(found, expected)


def test_linear_model_is_recovered(linear_net, images, classes):
    found = lime(
        linear_net,
        images,
        classes,
        samples=60,
        segments=16,
        superpixels="grid",
        baseline="black",
        ridge=0.0,
    )
    labels = superpixel_labels(images[0], "grid", 16)
    terms = (linear_net.weight[classes] * images).sum(1).detach()
    for b in range(3):
        for label in range(16):
            inside = labels == label
            assert torch.allclose(found[b][inside], terms[b][inside].sum().float(), atol=1e-5)


def test_the_long_way(relu_net, images, classes):
    found = lime(
        relu_net, images, classes, samples=40, segments=6, generator=SampleGenerator(3, "abc")
    )
    for b, sample_id in enumerate("abc"):
        labels = superpixel_labels(images[b], "slic", 6).numpy()
        count = labels.max() + 1
        shown = SampleGenerator(3, [sample_id]).uniform(40, count)[0].numpy() < 0.5
        shown[0] = True
        scores, weights = [], []
        for row in shown:
            altered = images[b].clone()
            for label in np.flatnonzero(~row):
                inside = torch.from_numpy(labels == label)
                altered[:, inside] = altered[:, inside].mean(1, keepdim=True)
            scores.append(relu_net(altered[None])[0, classes[b]].item())
            cosine = row.sum() / np.sqrt(row.sum() * count) if row.any() else 0.0
            weights.append(np.sqrt(np.exp(-((1 - cosine) ** 2) / 0.25**2)))
        weights = np.array(weights)
        full = np.column_stack([shown, np.ones(40)]).astype(float)
        left = full.T @ (weights[:, None] * full) + np.diag([1.0] * count + [0.0])
        expected = np.linalg.solve(left, full.T @ (weights * np.array(scores)))
        np.testing.assert_allclose(found[b], expected[labels], rtol=1e-4, atol=1e-6)
