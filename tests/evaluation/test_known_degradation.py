"""Maps that get worse by a known amount: every evaluator must tell, step by step."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from saliency_lab.attribution.methods.degraded import degraded
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.attribution.methods.occlusion import occlusion
from saliency_lab.data.batch import Batch
from saliency_lab.data.shapes import Shapes
from saliency_lab.evaluation.base import measured_rows
from saliency_lab.evaluation.context import Context, Method, found_maps
from saliency_lab.evaluation.deletion.evaluator import Deletion
from saliency_lab.evaluation.exact_truth.evaluator import ExactTruth
from saliency_lab.evaluation.grid_pointing.evaluator import GridPointing
from saliency_lab.evaluation.localisation.evaluator import Localisation
from saliency_lab.inference.engine import Engine
from saliency_lab.models.patch_sum import PatchSum

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
IMAGES, SIDE = 40, 32


class _Bands(Shapes):
    """Noise, with a band of three bright rows whose place is the class: the evidence."""

    def images(self, split, indices):
        labels, found = self.labels(split), []
        for index in indices:
            pixels = np.random.default_rng(int(index)).integers(0, 60, (3, SIDE, SIDE))
            pixels[:, self._rows(int(labels[index]))] = 250
            found.append(pixels.astype(np.uint8))
        return np.stack(found)

    def masks(self, split, indices):
        found = np.zeros((len(indices), SIDE, SIDE), dtype=bool)
        for at, index in enumerate(indices):
            found[at, self._rows(int(self.labels(split)[index]))] = True
        return found

    @staticmethod
    def _rows(label):
        return slice(3 * label, 3 * label + 3)


class _BandReader(nn.Module):
    """The logit of a class is the brightness of its band, in every tile of the image's height; what
    is further to the right counts more, so that no two pixels are alike."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.linspace(0.5, 1.5, x.shape[3])
        rows = (x * weights).unflatten(2, (-1, SIDE)).mean((1, 2, 4))
        bands = rows[:, :30].unflatten(1, (10, 3)).mean(2)
        return 20 * bands.relu().square()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    return _Bands(train_images=20, test_images=IMAGES, cache_dir=cache)


def patch_sum():
    torch.manual_seed(0)
    model = PatchSum(10, patch=8, width=8, depth=2)
    with torch.no_grad():
        for _ in range(20):
            model(torch.rand(16, 3, SIDE, SIDE))
    return model.eval()


PATCHES = partial(occlusion, window=0.25, stride=0.25, baseline="black")
CASES = {
    "deletion": (Deletion(protocol="standard", fills=["black"]), _BandReader, gradient),
    "exact_truth": (ExactTruth(), patch_sum, PATCHES),
    "localisation": (Localisation(fill="black"), _BandReader, gradient),
    "grid_pointing": (GridPointing(sides=[2], confidence=0.5), _BandReader, gradient),
}


@pytest.mark.parametrize("name", CASES)
def test_more_noise_is_worse_by_every_measure(name, data):
    evaluator, network, base = CASES[name]
    pixels = torch.from_numpy(data.images("test", range(IMAGES))).float() / 255
    labels = torch.from_numpy(data.labels("test"))
    batch = Batch(pixels, labels, torch.arange(IMAGES), data.ids("test"))
    model = network()
    means = []
    for share in SHARES:
        source = partial(degraded, base=base, share=share)
        prepared = Engine().prepare(model, pixels)
        context = Context(prepared, Method("any", source, ("original",)), data, "test", 42)
        evaluator.check(context, name)
        found = found_maps(context.maps_of(pixels, batch.ids))
        rows = measured_rows(evaluator, batch, "any", evaluator.measure(context, batch, found))
        scores = evaluator.image_scores(rows)
        # Allegiance moves in steps of the fractions; the probability does not.
        main = "probability" if name == "deletion" else evaluator.scores[0].name
        sign = 1 if evaluator.better(main, {"mode": "deletion"}) == "higher" else -1
        means.append(sign * float(scores[main].mean()))
    # The least noise may hurt nothing yet where the evidence is plain.
    assert all(np.diff(means) <= 0), means
    assert means[0] > means[2] > means[4], means
