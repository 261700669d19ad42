"""The table that a reproduction begins with, and the rates that its times come from."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from saliency_lab.reproductions.llorente2023.workload import Workload
from saliency_lab.tasks.plan import Planned, duration_text, plan_rows
from saliency_lab.tasks.rates import measured_rates, whole_batch


def test_what_is_there_and_what_is_missing() -> None:
    jobs = [
        Planned("a", "train", 1, took=100.0, there=True),
        Planned("a", "test", 1, there=True),
        Planned("a", "train", 2, estimate=9999.0),
        Planned("a", "test", 2, estimate=50.0),
        Planned("b", "train", 1, estimate=3600.0),
        Planned("b", "test", 1),
    ]
    assert plan_rows(jobs) == [
        # The training of the other seed took 100 s, whatever was estimated.
        ["a", "train (1), test (1)", "train (2), test (2)", "2 min"],
        ["b", "–", "train, test", "at least 60 min"],
        ["all", "2 jobs", "4 jobs", "at least 62 min"],
    ]
    assert plan_rows(jobs[:2]) == [["a", "train, test", "–", "–"]]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [([], "–"), ([None], "unknown"), ([20, 19.6], "40 s"), ([300], "5 min"), ([7200.0], "2.0 h"),
     ([7200.0, None], "at least 2.0 h")],
)  # fmt: skip
def test_a_duration_in_words(seconds: list[float | None], text: str) -> None:
    assert duration_text(seconds) == text


def test_the_time_of_a_job_by_hand() -> None:
    load = Workload(1.0, train_images=1000, test_images=100)

    def seconds(kind: str, limit: int | None = None) -> float:
        return load.seconds(kind, 0.01, 0.001, epochs=5, limit=limit)

    assert seconds("train") == pytest.approx(5 * 1000 * 0.01 + 100 * 0.001)
    assert seconds("train", 50) == pytest.approx(5 * 50 * 0.01 + 50 * 0.001)
    assert seconds("test") == pytest.approx(100 * 73 * 0.001)
    assert seconds("train-split") == pytest.approx(1000 * 73 * 0.001)


def test_a_whole_batch_from_two_small_ones() -> None:
    # 0.5 s for the step and 0.1 s an image.
    assert whole_batch(0.5 + 0.2, 0.5 + 0.8, 2, 8, 100) == pytest.approx(0.5 + 10)
    # Where the clock says that more images are faster, the larger batch is believed.
    assert whole_batch(0.9, 0.4, 2, 4, 100) == pytest.approx(10)
    assert whole_batch(0.4, 0.4, 4, 4, 4) == pytest.approx(0.4)
    # Nothing has a negative cost.
    assert whole_batch(0.1, 0.8, 2, 4, 100) == pytest.approx(35)


CLOCK = {"now": 0.0}


def slow_network(num_classes: int, in_chans: int = 3) -> torch.nn.Module:
    """A network whose forward takes 20 ms of CLOCK an image, and a training step twice that.

    Each size of batch takes 0.2 s more when it is met for the first time.
    """
    met = set()

    class Slow(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(in_chans * 4, num_classes)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            CLOCK["now"] += (0.04 if self.training else 0.02) * len(images)
            if (self.training, len(images)) not in met:
                met.add((self.training, len(images)))
                CLOCK["now"] += 0.2
            return self.layer(images.flatten(1))

    return Slow()


def test_rates_are_those_of_one_image_and_nothing_is_left_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(perf_counter=lambda: CLOCK["now"])
    monkeypatch.setattr("saliency_lab.tasks.rates.time", clock)
    config = {
        "model": {"_target_": f"{__name__}.slow_network"},
        "optimizer": {"_target_": "saliency_lab.models.optimizers.sgd", "lr": 0.1},
        "trainer": {"accelerator": "cpu", "threads": 1, "precision": "32-true"},
        "data": {"batch_size": 16},
    }
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    rates = measured_rates(config, 3, (3, 2, 2))
    assert rates.forward == pytest.approx(0.02)
    assert rates.step == pytest.approx(0.04)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
