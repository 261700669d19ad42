"""Kept maps come back as they were, and for no other samples."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch

from saliency_lab.attribution.core.estimate import Estimate
from saliency_lab.attribution.maps import BatchMaps, Completeness
from saliency_lab.evaluation.kept_maps import KeptMaps

IDS = ["test/a", "test/b", "test/c"]
CPU = torch.device("cpu")


def block(complete: bool) -> BatchMaps:
    draw = torch.Generator().manual_seed(0)
    maps = {view: torch.rand(3, 5, 7, generator=draw) for view in ("original", "active")}
    logits = torch.rand(3, 4, generator=draw)
    sums = Completeness(torch.rand(3, generator=draw), torch.rand(3, generator=draw))
    known = Estimate(torch.rand(3, generator=draw, dtype=torch.float64), torch.tensor([4, 9, 64]))
    return BatchMaps(
        maps, torch.tensor([2, 0, 3]), logits, torch.tensor([True, False, True]),
        sums if complete else None, known if complete else None,
    )  # fmt: skip


@pytest.mark.parametrize("complete", [True, False])
def test_a_block_comes_back_as_it_was(tmp_path: Path, complete: bool) -> None:
    kept = KeptMaps(tmp_path / "maps", ("original", "active"))
    found = block(complete)
    kept.write(6, IDS, found, "of these")
    again = kept.read(6, 3, CPU)
    assert list(again.maps) == ["original", "active"]
    for view, values in found.maps.items():
        assert again.maps[view].shape == (3, 5, 7)
        assert torch.equal(again.maps[view], values)
    assert torch.equal(again.logits, found.logits)
    assert again.targets.tolist() == [2, 0, 3]
    assert again.targets.dtype == torch.int64
    assert again.finite.tolist() == [True, False, True]
    assert again.finite.dtype == torch.bool
    if not complete:
        assert again.completeness is None
        assert again.estimate is None
    else:
        for mine, its in zip(found.completeness, again.completeness, strict=True):
            torch.testing.assert_close(its.double(), mine.double())
        assert torch.equal(again.estimate.error, found.estimate.error)
        assert torch.equal(again.estimate.rounds, found.estimate.rounds)


def test_they_are_of_these_samples_or_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = KeptMaps(tmp_path / "maps", ("original", "active"))
    assert not kept.has(6, IDS, "of these")
    kept.write(6, IDS, block(False), "of these")
    assert kept.has(6, IDS, "of these")
    assert not kept.has(0, IDS, "of these")
    assert not kept.has(6, IDS, "of others")
    assert not kept.has(6, IDS[:2], "of these")
    assert not kept.has(6, ["test/a", "test/c", "test/b"], "of these")
    assert not kept.has(6, ["test/a", "test/b", "test/d"], "of these")
    (path,) = (tmp_path / "maps").iterdir()
    os.truncate(path, path.stat().st_size // 2)
    with caplog.at_level(logging.WARNING):
        assert not kept.has(6, IDS, "of these")
    assert "which is corrupt" in caplog.text
