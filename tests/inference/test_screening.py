"""The screen against a low precision whose errors are known exactly."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from saliency_lab.inference import screening
from saliency_lab.inference.screening import Screen, bf16_copy, int8_copy


def exact(images: Tensor) -> Tensor:
    """Two logits: the image's only number, and zero."""
    value = images.flatten(1)
    return torch.cat([value, torch.zeros_like(value)], 1)


def off_by(error: float):
    """Low precision that shifts the first logit, so it errs exactly where −error < value < 0."""

    def cheap(images: Tensor) -> Tensor:
        return exact(images) + torch.tensor([error, 0.0])

    return cheap


class Counted:
    def __init__(self, forward) -> None:
        self.forward, self.images = forward, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return self.forward(images)


def values(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, 1, 1, generator=torch.Generator().manual_seed(seed))


def calibrated(monkeypatch: pytest.MonkeyPatch, pays: bool, **settings: float) -> tuple:
    """A screen after calibration on 1000 images, by a clock that only the forwards advance."""
    clock = {"now": 0.0}

    def taking(seconds: float, forward):
        def timed(images: Tensor) -> Tensor:
            clock["now"] += seconds
            return forward(images)

        return timed

    monkeypatch.setattr(screening.time, "perf_counter", lambda: clock["now"])
    forward = Counted(taking(10.0, exact))
    cheap = taking(1.0 if pays else 9.0, off_by(0.1))
    screen = Screen(cheap, forward, calibration=1000, **settings)
    for seed in range(10):
        screen(values(100, seed))
    forward.images = 0
    return screen, forward


def test_close_decisions_are_repeated_and_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, forward = calibrated(monkeypatch, pays=True, tolerance=0.0)
    assert screen.active
    # Low precision is wrong for values in (−0.1, 0), with margins up to 0.1.
    assert 0.08 < screen.threshold <= 0.1
    images = values(2000, 99)
    found = screen(images)
    wrong = found.argmax(1) != exact(images).argmax(1)
    assert wrong.float().mean() < 0.01
    margins = (images.flatten() + 0.1).abs()
    assert forward.images == int((margins < screen.threshold).sum())
    repeated = margins < screen.threshold
    assert torch.equal(found[repeated], exact(images)[repeated])
    report = screen.report()
    assert report["repeated"] == pytest.approx(forward.images / 2000)
    assert report["agreement"] == 1.0
    assert report["compared"] == 1000


def test_margins_that_equal_the_threshold_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of low precision take few values: many margins are the very one of a wrong answer."""

    def cheap(images: Tensor) -> Tensor:
        return (exact(images) * 8).round() / 8 + torch.tensor([0.0, 0.125])

    screen, _ = calibrated(monkeypatch, pays=True, tolerance=0.0)
    screen._cheap, screen._calibration = cheap, 0
    screen._both(values(1000, 1))
    assert screen.report()["agreement"] == 1.0
    images = values(1000, 2)
    assert torch.equal(screen(images).argmax(1), exact(images).argmax(1))


def test_tolerance_is_the_share_that_may_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    strict, _ = calibrated(monkeypatch, pays=True, tolerance=0.0)
    loose, _ = calibrated(monkeypatch, pays=True, tolerance=0.01)
    assert 0 < loose.threshold < strict.threshold
    assert loose.report()["agreement"] == pytest.approx(0.99)


def test_a_screen_that_does_not_pay_turns_itself_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        screen, forward = calibrated(monkeypatch, pays=False)
    assert not screen.active
    assert "off, it does not pay here" in caplog.text
    images = values(50, 3)
    assert torch.equal(screen(images), exact(images))
    assert forward.images == 50


def test_calibration_answers_in_full_precision() -> None:
    screen = Screen(off_by(5.0), exact, calibration=100)
    images = values(50, 0)
    assert torch.equal(screen(images), exact(images))


def test_audits_go_on_and_raise_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, _ = calibrated(monkeypatch, pays=True, tolerance=0.0)
    before = screen.threshold
    screen._cheap = off_by(0.4)
    for seed in range(64):
        screen(values(100, seed))
    assert screen.threshold > 2 * before


def test_of_thirty_two_batches_one_is_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, _ = calibrated(monkeypatch, pays=True, tolerance=0.0)
    audited = []
    for number in range(11, 97):  # the first ten were for calibration
        before = screen.report()["compared"]
        screen(values(10, number))
        if screen.report()["compared"] > before:
            audited.append(number)
    assert audited == [32, 64, 96]


def test_a_resumed_screen_decides_as_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = calibrated(monkeypatch, pays=True, tolerance=0.0)
    resumed = Screen(off_by(0.1), exact, calibration=1000, tolerance=0.0)
    resumed.resume(first.report())
    images = values(500, 7)
    assert torch.equal(resumed(images), first(images))
    before, after = first.report(), resumed.report()
    assert after["compared"] == before["compared"]
    assert after["screened"] == before["screened"]
    assert after["repeated"] == pytest.approx(before["repeated"])
    # Its own audits, of far fewer images, may raise the threshold but not lower it.
    # These are decided wrongly by a margin of 0.05, below those of the calibration.
    compared = resumed.report()["compared"]
    for _ in range(64):
        resumed(torch.full((3, 1, 1, 1), -0.05))
        assert resumed.threshold == first.threshold
    assert resumed.report()["compared"] == compared + 2 * 3
    off, _ = calibrated(monkeypatch, pays=False)
    resumed.resume(off.report())
    assert not resumed.active


def test_decisions_missed_before_are_counted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = calibrated(monkeypatch, pays=True, tolerance=0.01)
    earlier = {**first.report(), "compared": 2000, "agreement": 0.99}
    resumed = Screen(off_by(5.0), exact, calibration=1000, tolerance=0.01)
    resumed.resume(earlier)
    assert resumed.report()["agreement"] == pytest.approx(0.99)
    # All 20 that may be missed are: an audit's wrong decisions raise the threshold above them all.
    while resumed.report()["compared"] == 2000:
        resumed(values(50, 1))
    report = resumed.report()
    assert resumed.threshold > first.threshold
    assert report["agreement"] == pytest.approx(1 - 20 / report["compared"])


def test_nothing_is_resumed_from_a_calibration_that_had_not_finished() -> None:
    first = Screen(off_by(0.1), exact, calibration=1000)
    first(values(100, 0))
    resumed = Screen(off_by(0.1), exact, calibration=100)
    resumed.resume(first.report())
    assert torch.equal(resumed(values(100, 1)), exact(values(100, 1)))
    assert resumed.report()["compared"] == 100


def test_one_slow_batch_does_not_turn_the_screen_off(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr(screening.time, "perf_counter", lambda: clock["now"])
    slow = iter([1.0, 500.0, 1.0, 1.0])

    def cheap(images: Tensor) -> Tensor:
        clock["now"] += next(slow)
        return exact(images)

    def full(images: Tensor) -> Tensor:
        clock["now"] += 10.0
        return exact(images)

    screen = Screen(cheap, full, calibration=40)
    for seed in range(4):
        screen(values(10, seed))
    assert screen.report()["calibrated"]
    assert screen.active


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 25, 8),
        nn.Identity(),
    ).eval()


@pytest.mark.parametrize("kind", ["int8", pytest.param("bf16", marks=pytest.mark.onednn)])
def test_low_precision_is_near_full_precision(kind: str) -> None:
    model, images = small_net(), torch.rand(64, 3, 16, 16)
    engine = torch.backends.quantized.engine
    copy = int8_copy(model, images) if kind == "int8" else bf16_copy(model, images)
    with torch.no_grad():
        expected, found = model(images), copy(images)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()
    assert (found != expected).any()
    assert found.unique().numel() > 256  # logits themselves are not in eight bits
    assert torch.backends.quantized.engine == engine


def test_nothing_is_drawn_from_the_process() -> None:
    model, images = small_net(), torch.rand(8, 3, 16, 16)
    state = torch.get_rng_state()
    int8_copy(model, images)
    assert torch.equal(torch.get_rng_state(), state)


class Clipping(nn.Module):
    """Works in place on what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.clamp_(0.2, 0.8).flatten(1))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("int8", torch.float32), ("bf16", torch.float32), ("bf16", torch.bfloat16)],
)
def test_images_are_left_alone(kind: str, dtype: torch.dtype) -> None:
    sample = torch.rand(8, 3, 2, 2)
    given = sample.to(dtype).contiguous(memory_format=torch.channels_last)
    before = (sample.clone(), given.clone())
    copy = int8_copy(Clipping(), sample) if kind == "int8" else bf16_copy(Clipping(), sample)
    with torch.no_grad():
        copy(given)
    assert torch.equal(sample, before[0])
    assert torch.equal(given, before[1])
