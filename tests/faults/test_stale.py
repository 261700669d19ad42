"""A checkpoint changed between a kill and the same command: nothing of the old one stays."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch


def test_no_block_of_an_older_checkpoint_remains(
    tmp_path: Path, evaluate, command, rows_below, asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "untrained.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    checkpoint.unlink()  # a link to the one that tests share
    torch.save(content, checkpoint)
    with monkeypatch.context() as patch:
        patch.setenv("FAIL_AT", "5")
        assert command(*evaluate).code == 1
    assert len(asked()) == 25
    # Trained on in the meantime.
    weights = content["state_dict"]
    for name, tensor in weights.items():
        if tensor.is_floating_point():
            weights[name] = tensor.flip(0).contiguous()
    torch.save(content, checkpoint)
    resumed = command(*evaluate)
    assert resumed.code == 0, resumed.err
    assert len(asked()) == 40  # all of them once more
    fresh = command(*evaluate, "output_root=fresh")
    assert fresh.code == 0, fresh.err
    pd.testing.assert_frame_equal(rows_below("outputs"), rows_below("fresh"))
