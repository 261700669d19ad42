"""The prepared model against the model: decisions, maps, reasons, and what it says of itself."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import saliency_lab as sl
from saliency_lab.attribution.core.views import VIEWS
from saliency_lab.attribution.maps import maps
from saliency_lab.errors import UserError
from saliency_lab.evaluation.deletion.curves import masked_scores
from saliency_lab.evaluation.deletion.masking import MaskingJob
from saliency_lab.evaluation.deletion.removal import deletion_levels
from saliency_lab.frozen import intact_logits
from saliency_lab.imputation.fills import fill_images
from saliency_lab.inference import copies
from saliency_lab.inference.agreement import sign_agreement
from saliency_lab.inference.copies import float32_by
from saliency_lab.inference.engine import Engine, PreparedModel
from saliency_lab.inference.screening import masked_sample


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor]:
    """A ResNet that was trained for some steps to tell coloured patches apart, and images."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=4)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(12):
        images, labels = patches(64)
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), patches(24)[0]


def patches(count: int) -> tuple[Tensor, Tensor]:
    labels = torch.randint(4, (count,))
    images = torch.rand(count, 3, 32, 32) * 0.6
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = torch.randint(20, (2,)).tolist()
        colour = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])[label]
        image[:, row : row + 10, column : column + 10] = colour[:, None, None]
    return images, labels


def curves(engine: Engine, model: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Predictions (J, B, F) of the six paper curves, and the maps, through the engine."""
    prepared = engine.prepare(model, images)
    parts = prepared.maps(lambda rows: maps(prepared.model, images[rows], names=VIEWS), len(images))
    found = {view: torch.cat([part.maps[view] for part in parts]) for view in VIEWS}
    pairs = [("black", view) for view in ("original", "positive", "active")]
    pairs += [("white", view) for view in ("original", "negative", "inactive")]
    jobs = [
        MaskingJob(deletion_levels(found[view]), fill_images(images, fill)) for fill, view in pairs
    ]
    intact = prepared.logits(images)
    scores = masked_scores(
        prepared.scores, images, jobs, 13, batch_size=prepared.scores_batch, intact=intact
    )
    return torch.stack([score.prediction for score in scores]), found


def test_the_fast_path_decides_as_the_plain_one(trained: tuple[nn.Module, Tensor]) -> None:
    model, images = trained
    plain, plain_maps = curves(Engine(frozen_copy=False), model, images)
    fast, fast_maps = curves(Engine(), model, images)
    assert (plain == fast).float().mean() >= 0.995
    for view in VIEWS:
        difference = (plain_maps[view] - fast_maps[view]).norm() / plain_maps[view].norm()
        assert difference < 0.02
    assert len(plain.unique()) > 1


@pytest.mark.parametrize("screen", ["int8", "bf16"])
def test_a_screen_keeps_the_decisions(trained: tuple[nn.Module, Tensor], screen: str) -> None:
    model, images = trained
    plain, _ = curves(Engine(), model, images)
    screened, _ = curves(Engine(screen=screen, calibration=400), model, images)
    assert (plain == screened).float().mean() >= 0.99


@pytest.mark.onednn
def test_a_screen_of_lower_precision_than_bfloat16_only(
    trained: tuple[nn.Module, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    model, images = trained
    below = Engine(precision="bf16", screen="int8", calibration=10).prepare(model, images)
    below.scores(images)
    assert below.report()["screen"]["compared"] == len(images)  # type: ignore[index]
    assert not [one for one in caplog.records if one.levelname == "WARNING"]
    same = Engine(precision="bf16", screen="bf16").prepare(model, images)
    assert "screen" not in same.report()
    assert "screen off: everything is computed in bf16" in caplog.text


@pytest.mark.onednn
def test_report_is_plain_and_true(trained: tuple[nn.Module, Tensor]) -> None:
    model, images = trained
    report = Engine(maps_batch=3, scores_batch=7).prepare(model, images).report()
    assert report == {
        "precision": "fp32",
        "copy": "folded",
        "agreement": 1.0,
        "maps_batch": 3,
        "scores_batch": 7,
    }
    screened = Engine(screen="bf16", calibration=10).prepare(model, images)
    screened.scores(images)
    screen = screened.report()["screen"]
    assert isinstance(screen, dict)
    assert screen["kind"] == "bf16"
    assert screen["compared"] == len(images)


def test_work_is_cut_to_the_batch_size(trained: tuple[nn.Module, Tensor]) -> None:
    model, images = trained
    prepared = Engine(maps_batch=10).prepare(model, images)
    assert prepared.maps(lambda rows: rows.stop - rows.start, 24) == [10, 10, 4]


@pytest.mark.onednn
def test_bf16_states_its_agreement(trained: tuple[nn.Module, Tensor]) -> None:
    model, images = trained
    prepared = Engine(precision="bf16").prepare(model, images)
    logits = prepared.logits(images)
    assert logits.dtype == torch.float32
    expected = model(images).detach()
    assert 0 < (logits - expected).abs().max() < 0.1 * expected.abs().max()
    same = (logits.argmax(1) == expected.argmax(1)).float().mean()
    assert prepared.report()["agreement"] == pytest.approx(float(same), abs=0.05)


@pytest.mark.onednn
def test_bf16_states_how_often_gradients_keep_their_sign(trained: tuple[nn.Module, Tensor]) -> None:
    model, images = trained
    prepared = Engine(precision="bf16").prepare(model, images)
    few = images[:8]
    slopes = []
    for network in (prepared.model, model):
        start = few.clone().requires_grad_(True)
        logits = network(start.to(next(network.parameters()).dtype))
        slopes.append(torch.autograd.grad(logits.amax(1).sum(), start)[0])
    equal = float((slopes[0].sign() == slopes[1].sign()).float().mean())
    assert 0.9 < equal <= 1
    assert prepared.report()["gradient_signs"] == pytest.approx(equal, abs=1e-6)
    assert "gradient_signs" not in Engine().prepare(model, images).report()


def test_signs_that_differ_are_counted() -> None:
    model, other = nn.Linear(12, 1), nn.Linear(12, 1)
    other.weight.data = model.weight.data * torch.tensor([1.0, 1, -1] * 4)
    pixels = [nn.Sequential(nn.Flatten(), layer) for layer in (model, other)]
    assert sign_agreement(*pixels, torch.rand(5, 3, 2, 2)) == pytest.approx(2 / 3)


class Branching(nn.Module):
    """A path that depends on the image, which cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        pooled = images.mean((2, 3)) if images.mean() > 0.5 else images.amax((2, 3))
        return self.head(pooled)


class Drifting(nn.Module):
    """Counts its calls, which a traced copy does not follow: its answers soon disagree."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.head(images.mean((2, 3))) + self.calls


@pytest.mark.parametrize(
    ("model", "reason"), [(Branching(), "symbolically traced"), (Drifting(), "logits differ by")]
)
def test_models_that_cannot_be_copied_are_run_as_they_are(
    model: nn.Module, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    images = torch.rand(4, 3, 8, 8)
    with caplog.at_level(logging.WARNING):
        prepared = Engine().prepare(model, images)
    assert prepared.model is model
    assert prepared.reason is not None
    assert reason in prepared.reason
    assert reason in caplog.text
    assert prepared.report()["copy"] == prepared.reason
    with pytest.raises(UserError, match=r"`engine.precision`.*got 'bf16'"):
        Engine(precision="bf16").prepare(model, images)


@pytest.mark.onednn
def test_the_copy_does_not_follow_the_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).train()
    images = torch.rand(4, 3, 8, 8)
    expected = model(images).detach()
    prepared = Engine().prepare(model, images)
    model[3].weight.data.zero_()
    torch.testing.assert_close(prepared.logits(images), expected)
    assert model.training


class Hooked(nn.Module):
    """What a layer gives is changed by a hook, which no copy has."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers
        layers[1].register_forward_hook(lambda module, given, output: output + given[0].abs())

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Choosing(nn.Module):
    """A path that depends on the image: no fast copy, but one with its layers."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images if images.mean() > -1 else -images)


@pytest.mark.parametrize("kind", [nn.Sequential, Choosing, Hooked])
def test_one_dict_of_maps_is_of_one_network(kind: type[nn.Module]) -> None:
    """Maps by layers and by gradients alike, whatever becomes of the model in between."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    model, images = kind(layers).train(), torch.rand(4, 3, 8, 8)
    methods = ("original", "grad_cam", "occlusion")
    fast = sl.prepared(model, images)
    assert (fast.reason is None) == (kind is nn.Sequential)
    before, intact = sl.explain(fast, images, methods), fast.logits(images)
    torch.testing.assert_close(intact, intact_logits(model, images))
    for weights in model.parameters():
        weights.data.mul_(-1.5)
    after = sl.explain(fast, images, methods)
    wanted = sl.explain(model, images, methods) if kind is Hooked else before
    for name in methods:
        assert wanted[name].abs().max() > 0
        torch.testing.assert_close(after[name], wanted[name])
    assert torch.equal(fast.logits(images), intact) == (kind is not Hooked)
    assert model.training


@pytest.mark.parametrize(
    ("model", "images", "message"),
    [
        (None, torch.rand(2, 8, 8, 3), "`model` to take images of 8×8×3, but it says: "),
        (None, torch.ones(2, 3, 8, 8).byte(), "`images` to be floating"),
        (None, [[0.5]], "`images` to be a tensor or NumPy array"),
        (lambda images: images, torch.rand(2, 3, 8, 8), "`model` to be a torch.nn.Module"),
        ("prepared", torch.rand(2, 3, 8, 8), "`model` to be a torch.nn.Module, but got one that"),
    ],
)
def test_what_cannot_be_prepared_is_refused(model: object, images: Tensor, message: str) -> None:
    usual = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten())
    ready = sl.prepared(usual, np.ones((2, 3, 8, 8), dtype=np.float32))
    given = usual if model is None else ready if model == "prepared" else model
    with pytest.raises(UserError, match=message):
        sl.prepared(given, images)


def test_settings_outside_their_range_are_named() -> None:
    with pytest.raises(UserError, match=r"`engine.precision` to be one of fp32, tf32, bf16"):
        Engine(precision="fp64")
    with pytest.raises(UserError, match=r"`engine.screen`.*Did you mean 'int8'"):
        Engine(screen="int4")


def test_process_wide_switches_are_put_back(trained: tuple[nn.Module, Tensor]) -> None:
    model, images = trained
    switch = torch.backends.cudnn.conv
    found = switch.fp32_precision
    prepared = Engine().prepare(model, images)
    tf32 = Engine(precision="tf32").prepare(model, images)
    try:
        # Each begins from what the other asks for: a switch left as it was set would show.
        switch.fp32_precision = "tf32"
        with prepared.numerics():
            assert switch.fp32_precision == "ieee"
        assert switch.fp32_precision == "tf32"
        switch.fp32_precision = "ieee"
        with tf32.numerics():
            assert switch.fp32_precision == "tf32"
        assert switch.fp32_precision == "ieee"
    finally:
        switch.fp32_precision = found


def test_the_sample_for_ranges_looks_like_masked_images() -> None:
    images = torch.full((2, 3, 8, 8), 0.5)
    state = torch.get_rng_state()
    sample = masked_sample(images)
    assert torch.equal(torch.get_rng_state(), state)
    assert sample.shape == (6, 3, 8, 8)
    assert torch.equal(sample[:2], images)
    for part, value in ((sample[2:4], 0), (sample[4:], 1)):
        assert sorted(part.unique().tolist()) == sorted([0.5, value])
        assert torch.equal(part[:, 0], part[:, 1])


class Scaled(nn.Module):
    """A copy whose logits are off by a factor."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) * self.factor


def with_a_copy_off_by(
    factor: float, largest: float, monkeypatch: pytest.MonkeyPatch
) -> PreparedModel:
    """A prepared model whose largest logit and whose copy's relative error are given."""
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(48, 4)), torch.rand(4, 3, 4, 4)
    with torch.no_grad():
        scale = largest / model(images).abs().max()
        model[1].weight *= scale
        model[1].bias *= scale
    monkeypatch.setattr(copies, "packed_copy", lambda copy, sample: Scaled(copy, factor))
    return Engine().prepare(model, images)


@pytest.mark.parametrize(
    ("factor", "largest", "reason"),
    [
        (1.01, 10.0, "its logits differ by 1.0e-02 from the model's"),
        (1.01, 1.0, "its logits differ by 1.0e-02 from the model's"),
        (1.0003, 10.0, "its logits differ by 3.0e-04 from the model's"),
        (1.00003, 10.0, None),
        # Small logits are held to one ten-thousandth of a logit, not of themselves.
        (1.01, 0.005, None),
        (1.1, 0.005, "its logits differ by 5.0e-04 from the model's"),
        (float("nan"), 1.0, "its logits differ by nan from the model's"),
    ],
)
def test_a_copy_that_is_a_little_off_is_refused(
    factor: float, largest: float, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = with_a_copy_off_by(factor, largest, monkeypatch)
    assert prepared.reason == reason
    assert (prepared.model is prepared.original) == (reason is not None)


def test_every_batch_is_scored_in_the_right_order() -> None:
    """Logits come back image by image, also in several parts and where memory cut them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 4)).eval()
    images = torch.rand(11, 3, 4, 4)
    prepared = Engine(scores_batch=4).prepare(model, images)
    torch.testing.assert_close(prepared.logits(images), model(images).detach())
    torch.testing.assert_close(prepared.scores(images), model(images).detach())


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return values.sign()

    @staticmethod
    def backward(ctx, arriving):
        return arriving


class HiddenBackward(nn.Module):
    """Its gradient is not that of the operations that a tracer sees."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.features, self.beside = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.relu, self.head = nn.ReLU(), nn.Linear(8, 4)
        if kind == "hook":
            self.relu.register_full_backward_hook(lambda module, inward, out: (out[0].clamp(0),))

    def forward(self, images: Tensor) -> Tensor:
        if self.kind == "no_grad":
            with torch.no_grad():
                found = self.features(images)
            found = found + self.beside(images)
        elif self.kind == "function":
            found = _StraightThrough.apply(self.features(images))
        else:
            found = self.features(images)
        return self.head(self.relu(found).mean((2, 3)))


@pytest.mark.parametrize("kind", ["function", "no_grad", "hook"])
def test_a_copy_with_other_gradients_is_not_used(kind: str) -> None:
    torch.manual_seed(0)
    model, images = HiddenBackward(kind).eval(), torch.rand(3, 3, 12, 14)
    prepared = Engine().prepare(model, images)
    assert "gradients differ by" in str(prepared.reason)
    plain, fast = (maps(m, images).maps["original"] for m in (model, prepared.model))
    assert torch.equal(plain, fast)
    assert plain.abs().max() > 0
    assert Engine().prepare(HiddenBackward("none").eval(), images).reason is None


def test_a_copy_whose_backward_fails_is_not_used() -> None:
    # The ReLU and the pool change places, and what comes next overwrites what the ReLU saved.
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU6(inplace=True),
        nn.Flatten(), nn.Linear(8 * 5 * 6, 4),
    ).eval()  # fmt: skip
    images = torch.rand(2, 3, 12, 14)
    prepared = Engine().prepare(model, images)
    found = maps(prepared.model, images).maps["original"]
    torch.testing.assert_close(found, maps(model, images).maps["original"])


def test_hooks_of_the_model_see_the_model_alone() -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Flatten(), nn.Linear(4 * 36, 3))
    seen = []
    model[0].register_forward_hook(lambda module, given, output: seen.append(type(output)))
    prepared = Engine().prepare(model.eval(), torch.rand(2, 3, 8, 8))
    assert prepared.reason is None
    assert set(seen) == {Tensor}


def test_once_let_go_it_still_leaves_the_model_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    images = torch.rand(2, 3, 8, 8)
    with Engine().prepare(model.train(), images) as prepared:
        inside = prepared.logits(images)
    torch.testing.assert_close(prepared.logits(images), inside)
    assert model[1].num_batches_tracked == 0
    assert model.training


class Answering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"features": images, "logits": self.layers(images)}


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16"}, {"screen": "bf16"},
                                      {"screen": "int8", "calibration": 4}])  # fmt: skip
def test_a_model_that_returns_a_mapping_is_prepared_like_its_logits(settings: dict) -> None:
    torch.manual_seed(0)
    model, images = Answering().eval(), torch.rand(6, 3, 16, 16)
    prepared = Engine(**settings).prepare(model, images)
    assert prepared.reason is None
    wanted = Engine(**settings).prepare(model.layers, images)
    torch.testing.assert_close(prepared.scores(images), wanted.scores(images))
    assert prepared.report().keys() == wanted.report().keys()


def test_it_can_be_made_and_used_in_inference_mode() -> None:
    model = Answering().eval()
    with torch.inference_mode():
        images = torch.rand(2, 3, 16, 16)
        prepared = Engine().prepare(model, images)
        found = maps(prepared.model, images).maps["original"]
    assert prepared.reason is None
    assert found.abs().max() > 0


class InPlace(nn.Module):
    """Normalises what it is given in place."""

    def __init__(self, channels: int, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(channels, 8, 3), nn.Linear(8, 4)
        self.in_place = in_place

    def forward(self, images: Tensor) -> Tensor:
        images = images.sub_(0.5).div_(0.25) if self.in_place else (images - 0.5) / 0.25
        return self.head(self.conv(images).relu().mean((2, 3)))


@pytest.mark.parametrize("packed", [pytest.param(True, marks=pytest.mark.onednn), False])
@pytest.mark.parametrize("frozen_copy", [True, False])
@pytest.mark.parametrize(
    ("channels", "layout"), [(1, torch.contiguous_format), (3, torch.channels_last)]
)
def test_a_model_that_works_in_place_leaves_the_images_alone(
    channels: int,
    layout: torch.memory_format,
    frozen_copy: bool,
    packed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the images need no conversion, and where a GPU leaves the copy unpacked."""
    if not packed:
        monkeypatch.setattr(copies, "packed_copy", lambda folded, sample: folded)
    images = torch.rand(16, channels, 8, 8).contiguous(memory_format=layout)
    before = images.clone()
    expected = InPlace(channels, False)(before).detach()
    prepared = Engine(frozen_copy=frozen_copy).prepare(InPlace(channels, True).eval(), images)
    assert (prepared.reason is None) == frozen_copy
    assert prepared.agreement == 1
    for _ in range(2):
        torch.testing.assert_close(prepared.logits(images), expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(images, before)


class MadeInForward(nn.Module):
    """Makes a layer at every call, which a tracer looks for among the model's own in vain."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(nn.ReLU()(images).mean((2, 3)))


class Optional(nn.Module):
    """Traced along a path that a call with images alone never takes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Tensor:
        logits = self.head(images.mean((2, 3)))
        return logits if targets is None else nn.functional.cross_entropy(logits, targets)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("model", "reason"),
    [(MadeInForward(), "not installed as a submodule"), (Optional(), "argument 'target'")],
)
def test_a_copy_is_given_up_in_one_line(
    model: nn.Module,
    reason: str,
    packed: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """PyTorch prints tracebacks of its own where a traced graph fails."""
    if not packed:
        monkeypatch.setattr(copies, "packed_copy", lambda folded, sample: folded)
    images = torch.rand(4, 3, 8, 8)
    prepared = Engine(screen="bf16").prepare(model.eval(), images)
    assert reason in str(prepared.reason)
    assert "\n" not in str(prepared.reason)
    torch.testing.assert_close(prepared.logits(images), model(images).detach())
    assert "Traceback" not in (printed := capfd.readouterr().err)
    assert "traced Module" not in printed


def test_switches_that_follow_another_go_on_following_it() -> None:
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    switches = (torch.backends, matmul, conv)
    found = [switch.fp32_precision for switch in switches]
    try:
        matmul.fp32_precision = conv.fp32_precision = "none"
        torch.backends.fp32_precision = "tf32"
        with float32_by("ieee"):
            assert matmul.fp32_precision == conv.fp32_precision == "ieee"
        assert matmul.fp32_precision == conv.fp32_precision == "tf32"
        torch.backends.fp32_precision = "ieee"
        assert matmul.fp32_precision == conv.fp32_precision == "ieee"
    finally:
        for switch, value in zip(switches, found, strict=True):
            switch.fp32_precision = value
