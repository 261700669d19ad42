"""The loaders inside real trainers: epochs, resuming, several processes."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import nn

from saliency_lab.data.batch import Batch
from saliency_lab.data.folder import Folder
from saliency_lab.data.sampling import TrainBatches

COUNTS = {"train/a": 13, "train/b": 12, "test/a": 6, "test/b": 5}


class Recorder(LightningModule):
    """Notes what it is given and learns nothing of interest."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.seen: list[tuple[str, int, list[int], float]] = []

    def _step(self, stage: str, batch: Batch) -> torch.Tensor:
        entry = (stage, self.current_epoch, batch.index.tolist(), float(batch.image.sum()))
        self.seen.append(entry)
        return self.layer(batch.image.mean(dim=(2, 3))).square().mean()

    def training_step(self, batch: Batch) -> torch.Tensor:
        return self._step("train", batch)

    def validation_step(self, batch: Batch) -> None:
        self._step("val", batch)

    def test_step(self, batch: Batch) -> None:
        self._step("test", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _trainer(epochs: int, folder: Path) -> Trainer:
    return Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, default_root_dir=folder,
        num_sanity_val_steps=0,
    )  # fmt: skip


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_meets_what_the_whole_run_meets(
    make_tree, tmp_path: Path, workers: int
) -> None:
    root = make_tree(COUNTS)

    def data() -> Folder:
        return Folder(
            root=str(root), size=8, batch_size=6, validation=0.2, augment="basic", workers=workers
        )

    kept = len(data().ids("train"))  # a hash decides which images are held out, and how many
    assert 15 <= kept < 25
    whole = Recorder()
    _trainer(4, tmp_path).fit(whole, datamodule=data())
    order = [entry for entry in whole.seen if entry[0] == "train"]
    expected = [batch for epoch in range(4) for batch in TrainBatches(kept, 6, 42, epoch=epoch)]
    assert [entry[2] for entry in order] == expected

    first, second = Recorder(), Recorder()
    trainer = _trainer(2, tmp_path)
    trainer.fit(first, datamodule=data())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    _trainer(4, tmp_path).fit(second, datamodule=data(), ckpt_path=tmp_path / "last.ckpt")
    assert first.seen + second.seen == whole.seen


def test_only_training_is_augmented(make_tree, tmp_path: Path) -> None:
    data = Folder(
        root=str(make_tree(COUNTS)), size=8, batch_size=6, validation=0.2, augment="basic"
    )
    recorder, trainer = Recorder(), _trainer(2, tmp_path)
    trainer.fit(recorder, datamodule=data)
    trainer.test(recorder, datamodule=data, verbose=False)
    assert {stage for stage, *_ in recorder.seen} == {"train", "val", "test"}
    for stage, epoch, indices, total in recorder.seen:
        plain = data.images(stage, indices).sum() / 255
        if stage == "train":
            assert abs(total - plain) > 1e-3, (epoch, indices)
        else:
            assert total == pytest.approx(plain, rel=1e-5)


_RANKS = """
    import json, os, sys
    from pathlib import Path
    import torch.distributed
    from pytorch_lightning import LightningModule, Trainer
    from saliency_lab.data.folder import Folder
    sys.path.insert(0, sys.argv[4])
    from test_loops import Recorder

    if __name__ == "__main__":
        root, out, block = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
        data = Folder(root=root, size=8, batch_size=6, augment="basic")
        data.eval_batch_size = block
        recorder = Recorder()
        trainer = Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", logger=False,
            enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
            enable_checkpointing=False)
        trainer.fit(recorder, datamodule=data)
        trainer.test(recorder, datamodule=data, verbose=False)
        data.done_blocks = lambda: range(100)
        trainer.test(recorder, datamodule=data, verbose=False)
        (out / f"{trainer.global_rank}.json").write_text(json.dumps(recorder.seen))
"""


@pytest.mark.parametrize("block", [4, 50])
def test_two_processes_share_every_batch_and_every_block(
    make_tree, tmp_path: Path, block: int
) -> None:
    root, script = make_tree(COUNTS), tmp_path / "ranks.py"
    script.write_text(textwrap.dedent(_RANKS))
    command = [sys.executable, str(script), str(root), str(tmp_path), str(block)]
    command.append(str(Path(__file__).parent))
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]

    trained = [[e[2] for e in rank if e[0] == "train"] for rank in ranks]
    expected = []
    for epoch in range(2):
        # The one sample that is left over joins the batch before, as it does in one process.
        expected += [sorted(batch) for batch in TrainBatches(25, 6, 42, epoch=epoch)]
    assert [sorted(a + b) for a, b in zip(*trained, strict=True)] == expected

    tested = [[e[2] for e in rank if e[0] == "test"] for rank in ranks]
    blocks = [list(range(s, min(s + block, 11))) for s in range(0, 11, block)]
    assert tested == [blocks[0::2], blocks[1::2]]
