"""The evaluator in Lightning's test loop, against the Python face on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

import saliency_lab as sl
from saliency_lab.attribution.core.views import VIEWS
from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.attribution.methods.smoothgrad import smoothgrad
from saliency_lab.data.shapes import Shapes
from saliency_lab.errors import UserError
from saliency_lab.evaluation.context import Method
from saliency_lab.evaluation.deletion.evaluator import Deletion
from saliency_lab.evaluation.loop import MAPS, EvaluationLoop, Plan, block_size
from saliency_lab.evaluation.rows.shards import Shards
from saliency_lab.inference.engine import Engine
from saliency_lab.models.basic_cnn import BasicCNN
from saliency_lab.models.classifier import Classifier

IMAGES = 13
PAPER = [
    ("original", "black"), ("original", "white"), ("positive", "black"),
    ("negative", "white"), ("active", "black"), ("inactive", "white"),
]  # fmt: skip
KEYS = ["index", "view", "mode", "fill", "fraction"]


@pytest.fixture
def data(tmp_path: Path) -> Shapes:
    settings = {"train_images": 10, "test_images": IMAGES, "cache_dir": str(tmp_path / "cache")}
    return Shapes(name="shapes", **settings)


@pytest.fixture
def classifier(data: Shapes) -> Classifier:
    torch.manual_seed(1)
    network = BasicCNN(num_classes=10)
    images = torch.from_numpy(data.images("test", range(IMAGES))).float().div(255)
    with torch.no_grad():
        # Untrained logits hardly differ; centred and spread out, they change as pixels go.
        typical = network.forward_head(network.forward_features(images), pre_logits=True).mean(0)
        network.fc.weight.mul_(200)
        network.fc.bias.copy_(-network.fc.weight @ typical)
    return Classifier(network, 10)


def evaluated(
    data: Shapes,
    classifier: Classifier,
    directory: Path,
    method: Method,
    block: int = 5,
    on_nonfinite: Any = "error",
    **settings: Any,
) -> dict[str, Shards]:
    data.eval_batch_size = block
    shards = {label: Shards(directory / label, IMAGES, block) for label in (MAPS, "deletion")}
    data.done_blocks = lambda: set.intersection(*(set(own.done()) for own in shards.values()))
    plan = Plan(
        {"deletion": Deletion(**settings)}, shards, method, Engine(), data, "test", 3,
        on_nonfinite, examples=frozenset({0, 7}),
    )  # fmt: skip
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, callbacks=[EvaluationLoop(plan)], logger=False,
        inference_mode=False, enable_progress_bar=False, use_distributed_sampler=False,
        default_root_dir=directory,
    )  # fmt: skip
    trainer.test(classifier, datamodule=data, verbose=False)
    return shards


def sorted_rows(shards: dict[str, Shards]) -> pd.DataFrame:
    return shards["deletion"].rows().sort_values(KEYS).reset_index(drop=True)


def test_rows_are_what_the_python_face_gives(
    data: Shapes, classifier: Classifier, tmp_path: Path
) -> None:
    shards = evaluated(data, classifier, tmp_path, Method("gradient", gradient, VIEWS))
    rows = shards["deletion"].rows()
    images = torch.from_numpy(data.images("test", range(IMAGES))).float().div(255)
    maps = sl.explain(classifier.network, images, methods=VIEWS)
    assert rows.groupby(["view", "fill"], observed=True).ngroups == len(PAPER)
    assert rows["agrees"].mean() < 0.95
    for view, fill in PAPER:
        expected = sl.deletion_curve(classifier.network, images, maps[view], fill=fill)
        curve = rows[(rows["view"] == view) & (rows["fill"] == fill)]
        found = curve["agrees"].to_numpy().reshape(IMAGES, -1)
        assert (found == expected.numpy()).mean() > 0.99
        assert curve["sample_id"].tolist()[:: found.shape[1]] == data.ids("test")
        assert curve["label"].tolist()[:: found.shape[1]] == data.labels("test").tolist()
    intact = rows[rows["fraction"] == 0]
    assert (intact["deleted"] == 0).all()
    assert intact["agrees"].all()
    answers = shards[MAPS].rows()
    with torch.no_grad():
        expected = classifier.network.eval()(images).argmax(1).tolist()
    assert answers["prediction"].tolist() == expected
    assert answers["label"].tolist() == data.labels("test").tolist()


def test_one_pass_over_five_views_gives_the_rows_of_five_passes(
    data: Shapes, classifier: Classifier, tmp_path: Path
) -> None:
    together = evaluated(data, classifier, tmp_path / "a", Method("gradient", gradient, VIEWS))
    alone = [
        evaluated(data, classifier, tmp_path / view, Method("gradient", gradient, (view,)))[
            "deletion"
        ].rows()
        for view in VIEWS
    ]
    apart = pd.concat([frame.astype({"view": str, "fill": str}) for frame in alone])
    apart = apart.sort_values(KEYS).reset_index(drop=True)
    found = sorted_rows(together).astype({"view": str, "fill": str})
    for column in ("sample_id", "prediction", "agrees", "deleted"):
        assert found[column].tolist() == apart[column].tolist()
    np.testing.assert_allclose(found["logit"], apart["logit"], rtol=1e-4, atol=1e-3)


def test_a_resumed_evaluation_computes_only_what_is_missing(
    data: Shapes, classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Method("gradient", gradient, ("active",))
    whole = sorted_rows(evaluated(data, classifier, tmp_path, method))
    Shards(tmp_path / "deletion", IMAGES, 5).path(1).unlink()
    written: list[tuple[str, int]] = []
    write = Shards.write

    def spied(self: Shards, number: int, *rest: Any) -> None:
        written.append((self.folder.name, number))
        write(self, number, *rest)

    monkeypatch.setattr(Shards, "write", spied)
    again = sorted_rows(evaluated(data, classifier, tmp_path, method))
    assert written == [("deletion", 1), (MAPS, 1)]
    pd.testing.assert_frame_equal(whole, again)


def test_blocks_are_smaller_for_large_images_on_a_cpu_only() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    sizes = {side: block_size(None, (3, side, side), cpu) for side in (32, 64, 128, 224, 512)}
    assert sizes == {32: 100, 64: 100, 128: 32, 224: 16, 512: 16}
    assert block_size(None, (3, 224, 224), cuda) == 100
    assert block_size(7, (3, 224, 224), cpu) == 7


def test_random_sources_do_not_depend_on_the_blocks(
    data: Shapes, classifier: Classifier, tmp_path: Path
) -> None:
    method = Method("smoothgrad", lambda m, x, *, generator=None: smoothgrad(
        m, x, base=gradient, samples=3, generator=generator), ("active",))  # fmt: skip
    by_five = sorted_rows(evaluated(data, classifier, tmp_path / "5", method, fills=["noise"]))
    by_two = sorted_rows(
        evaluated(data, classifier, tmp_path / "2", method, block=2, fills=["noise"])
    )
    assert by_five["deleted"].tolist() == pytest.approx(by_two["deleted"].tolist(), abs=2e-3)
    # The noise that fills pixels is the sample's own, so logits agree but for the order of sums.
    np.testing.assert_allclose(by_five["logit"], by_two["logit"], rtol=1e-3, atol=1e-2)


class Poisoned(nn.Module):
    """A network whose answer is NaN for images darker than a threshold."""

    def __init__(self, network: nn.Module, darker: float) -> None:
        super().__init__()
        self.network, self.darker = network, darker

    def forward(self, images: Tensor) -> Tensor:
        dark = images.mean((1, 2, 3)) < self.darker
        return self.network(images).masked_fill(dark[:, None], float("nan"))


def test_nonfinite_images_are_named_or_skipped_and_counted(
    data: Shapes, classifier: Classifier, tmp_path: Path
) -> None:
    means = data.images("test", range(IMAGES)).mean((1, 2, 3)) / 255
    threshold = float(np.sort(means)[1:3].mean())
    dark = [data.ids("test")[i] for i in np.flatnonzero(means < threshold)]
    poisoned = Classifier(Poisoned(classifier.network, threshold), 10)
    # Masking darkens: white keeps every other image above the threshold.
    method = Method("gradient", gradient, ("inactive",))
    with pytest.raises(UserError, match=dark[0]):
        evaluated(data, poisoned, tmp_path / "stop", method)
    shards = evaluated(data, poisoned, tmp_path / "skip", method, on_nonfinite="skip")
    assert sorted(s for meta in shards[MAPS].metas() for s in meta["skipped"]) == sorted(dark)
    assert set(shards["deletion"].rows()["sample_id"]) == set(data.ids("test")) - set(dark)


def test_examples_are_kept_with_maps_and_levels(
    data: Shapes, classifier: Classifier, tmp_path: Path
) -> None:
    shards = evaluated(data, classifier, tmp_path, Method("gradient", gradient, ("active",)))
    kept = shards[MAPS].examples()
    assert kept["ids"].tolist() == [data.ids("test")[0], data.ids("test")[7]]
    assert np.array_equal(kept["images"], data.images("test", [0, 7]))
    assert kept["map:gradient/active"].max() == 1
    assert shards["deletion"].examples()["levels:active"].dtype == np.uint8


def test_settings_are_refused_with_a_reason() -> None:
    with pytest.raises(UserError, match="fill"):
        Deletion(fills=["blak"])
    with pytest.raises(UserError, match="fractions"):
        Deletion(fractions=[0.5, 0.1])


def test_maps_that_are_nearly_empty_are_warned_of() -> None:
    def scores(**shares: float) -> pd.DataFrame:
        return pd.DataFrame(
            [
                ("gradient", view, mode, share + off)
                for view, share in shares.items()
                for mode, off in (("deletion", 0), ("deletion", 0.04))
            ]
            # What an insertion of the same map leaves deleted is the rest.
            + [("gradient", view, "insertion", 0.98 - share) for view, share in shares.items()],
            columns=["method", "view", "mode", "deleted"],
        )

    found = Deletion().facts(pd.DataFrame(), scores(original=0.86, active=0.02, inactive=0.1))
    (warning,) = found["warnings"]
    assert warning.startswith("gradient/active: only 4.0% of the pixels are not 0, on average")
    assert "evaluator.deletion.protocol=standard" in warning
    # Where every pixel goes, or few were to go, there is nothing to say.
    for other in (Deletion(protocol="standard"), Deletion(fractions=[0.0, 0.02])):
        assert "warnings" not in other.facts(pd.DataFrame(), scores(active=0.02))
    assert "warnings" not in Deletion().facts(pd.DataFrame(), scores(active=0.3))
