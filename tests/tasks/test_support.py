"""GAD from the command line: a pair of classes of a model of ten, its support models, tables."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

WORDS = (
    "method=gad", "method.classes=[square,circle]", "data=shapes", "data.train_images=100",
    "data.test_images=100", "trainer=cpu", "logger=none", "method.training.epochs=1",
    "method.training.learning_rate=0.001", "method.training.limit=16",
    "method.training.alphas=[0,4]",
)  # fmt: skip


def test_gad_is_evaluated_and_its_support_models_are_shared(command, classifier_file, tmp_path):
    checkpoint = tmp_path / "c.ckpt"
    checkpoint.write_bytes(classifier_file.read_bytes())
    words = (*WORDS, f"ckpt={checkpoint}", "data.limit=12")
    outcome = command("evaluate", *words, "evaluator=[hull,deletion,constant_shift]")
    assert outcome.code == 0, outcome.err
    kept = sorted(
        path.parent.name for path in tmp_path.glob("support/square-circle/*/*/network.pt")
    )
    assert kept == ["alpha-0-order-0", "alpha-0-order-1", "alpha-4-order-1"]
    (summary_path,) = tmp_path.glob("outputs/evaluate/**/summary.json")
    summary = json.loads(summary_path.read_text())
    assert summary["data"]["classes"] == ["square", "circle"]
    assert summary["data"]["images"] == 12
    hull = next(found for found in summary["evaluators"].values() if found["name"] == "hull")
    masks = {row["mask"]: row for row in hull["facts"]["masks"] if row["label"] == -1}
    assert masks["original"]["relative_complexity"] == 1
    assert masks["gad"]["pixels"] == masks["random_subset"]["pixels"] == masks["top"]["pixels"]
    assert masks["gad"]["pixels"] < masks["original"]["pixels"]
    rows = pd.read_parquet(next(summary_path.parent.glob("hull*.parquet")))
    assert set(rows["label"]) == {0, 1}
    # As of the source: the same function of the same images has the same map.
    shifted = pd.read_parquet(summary_path.parent / "constant_shift.parquet")
    assert shifted["relative_change"].max() < 0.01
    refused = command("evaluate", *words, "evaluator=[randomisation]")
    assert refused.code == 2
    assert "gad has support models" in refused.err

    # Another source finds them.
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("network.pt")}
    guided = "method.base._target_=saliency_lab.attribution.methods.guided_backprop.guided_backprop"
    outcome = command("evaluate", *words, guided, "evaluator=[hull]")
    assert outcome.code == 0, outcome.err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("network.pt")} == times

    outcome = command("explain", *WORDS, f"ckpt={checkpoint}")
    assert outcome.code == 0, outcome.err
    assert list(tmp_path.glob("outputs/explain/**/grid.png"))


def test_mistakes_end_with_one_line(command, classifier_file):
    words = [word for word in WORDS if not word.startswith("method")]
    base = ("evaluate", *words, f"ckpt={classifier_file}", "data.limit=8")
    for more, message in (
        (("method=gad",), "Expected `method.classes` to name two classes"),
        (("method=gad", "method.classes=[cow,circle]"), "method.classes"),
        (("method=gradient", "evaluator=[hull]"), "Expected `method` to be gad"),
    ):
        outcome = command(*base, *more)
        assert outcome.code == 2
        assert message in outcome.err
        assert "Traceback" not in outcome.err


def test_the_place_is_named_by_all_that_decides_the_models(tmp_path):
    from saliency_lab.attribution.methods.gad import SupportTraining
    from saliency_lab.tasks.support import support_directory

    run = tmp_path / "run"
    classifier = {"path": str(run / "checkpoints" / "last.ckpt"), "sha256": "a"}
    data = {"name": "shapes", "classes": ["a", "b"], "limit": None, "root": None}

    usual = {"precision": "32-true", "devices": 1, "max_epochs": 50, "batch": "global"}

    def place(settings=SupportTraining(), seed=1, trainer=usual, **others) -> Path:  # noqa: B008
        found = {**classifier, **{k: v for k, v in others.items() if k == "sha256"}}
        return support_directory(found, ["a b", "c"], {**data, **others}, settings, trainer, seed)

    assert place().parent == run / "support" / "a_b-c"
    assert place(root="elsewhere") == place()
    assert place(SupportTraining(alphas=(1, 2))) == place()
    assert place(trainer={**usual, "max_epochs": 3, "devices": 2, "threads": 1}) == place()
    # What was trained before the trainer's settings counted, with the usual ones.
    assert place().name == "2796bb334b12"
    alone = {**usual, "batch": "per_process"}
    different = [
        place(trainer={**usual, "precision": "bf16-mixed"}),
        place(trainer={**usual, "gradient_clip_val": 0.5}),
        place(trainer=alone), place(trainer={**alone, "devices": 2}),
        place(), place(seed=2), place(sha256="b"), place(name="other"),
        place(SupportTraining(epochs=3)),
    ]  # fmt: skip
    assert len(set(different)) == len(different)
