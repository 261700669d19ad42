"""What is said of a machine before training begins on it."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
import torch
from pytorch_lightning.accelerators import CPUAccelerator, MPSAccelerator

from saliency_lab.errors import UserError
from saliency_lab.runs.processes import PARENT, process_count
from saliency_lab.training.trainer import _cluster, trainer, warn_of_a_busy_machine


@pytest.mark.parametrize(
    ("busy", "threads", "said"),
    [
        (5.4, 4, "trainer.threads=1 may"),
        (2.0, 4, "2.0 of 4 cores are busy with other programs, so 4 threads"),
        (0.3, 4, None),  # a machine at rest
        (3.0, 1, None),  # one thread waits for no other
        (2.0, 2, None),  # there is room for both
    ],
)
def test_threads_that_would_wait_for_each_other_are_named(
    busy: float, threads: int, said: str | None,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(psutil, "getloadavg", lambda: (busy, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    warn_of_a_busy_machine.cache_clear()
    with caplog.at_level("WARNING", "saliency_lab.training.trainer"):
        warn_of_a_busy_machine()
        warn_of_a_busy_machine()
    assert len(caplog.messages) == (said is not None)
    assert said is None or said in caplog.messages[0]
    warn_of_a_busy_machine.cache_clear()


def test_a_job_of_several_processes_knows_their_number_after_its_first_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Lightning's own environment forgets it when a trainer is torn down, and the next trainer of
    # the same process would then train alone.
    for name, value in {PARENT: "1", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    environment = _cluster()
    environment.teardown()
    assert process_count() == 2


def test_what_is_there_is_never_a_gpu_without_float64(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a Mac, Lightning's own `auto` would take the GPU, where measures could not be computed."""
    monkeypatch.setattr(MPSAccelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = trainer(directory=tmp_path, callbacks=[], threads=torch.get_num_threads())
    assert isinstance(found.accelerator, CPUAccelerator)
    with pytest.raises(UserError, match=r"`trainer.accelerator=gpu` .* available on this machine"):
        trainer(
            accelerator="gpu", directory=tmp_path, callbacks=[], threads=torch.get_num_threads()
        )
