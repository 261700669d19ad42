"""Two configurations share a directory if and only if nothing that decides differs."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from saliency_lab.config.identity import NOT_IDENTITY, conflicts, differences, run_directory

DEFAULTS: dict[str, Any] = {
    "task": "evaluate",
    "seed": 42,
    "output_root": "outputs",
    "split": "test",
    "data": {"name": "shapes", "root": None, "limit": None, "workers": 0, "images_seed": 0},
    "model": {"name": "basic_cnn"},
    "method": {"name": "smoothgrad", "samples": 50, "noise": 0.15},
    "view": {"names": ["original"], "channels": "max", "competitors": None},
    "engine": {"precision": "fp32", "screen": "off", "scores_batch": None, "compile": False},
    "classifier": {"sha256": "ab" * 32},
}
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(0, 99), st.floats(0.01, 0.99),
    st.text("ab_+-./ é=", max_size=6), st.lists(st.integers(0, 3), max_size=3),
)  # fmt: skip
DECIDING = ["data.limit", "data.images_seed", "method.samples", "method.noise", "view.channels",
            "view.competitors", "engine.precision", "engine.screen", "split"]  # fmt: skip
OTHER = ["output_root", "data.root", "data.workers", "engine.scores_batch", "engine.compile"]
CHANGES = st.dictionaries(st.sampled_from(DECIDING), VALUES, max_size=5)


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(DEFAULTS)
    for path, value in changes.items():
        group, _, key = path.rpartition(".")
        (config[group] if group else config)[key] = value
    return config


def place(changes: dict[str, Any]) -> str:
    return str(run_directory(changed(changes), DEFAULTS))


@given(CHANGES, CHANGES)
def test_one_directory_means_the_same_values(one, other) -> None:
    # As JSON, which tells true from 1.
    mine, its = (json.dumps(differences(changed(c), DEFAULTS)) for c in (one, other))
    assert (place(one) == place(other)) == (mine == its)


@given(CHANGES, st.dictionaries(st.sampled_from(OTHER), VALUES, max_size=5))
def test_how_and_where_a_run_happens_changes_nothing(one, how) -> None:
    assert place({**one, **how}) == place(one)
    assert conflicts(changed({**one, **how}), changed(one)) == []


@given(CHANGES)
def test_names_are_such_as_every_file_system_and_shell_takes(one) -> None:
    parts = place(one).split("/")
    assert parts[:3] == ["evaluate", "shapes", "basic_cnn"]
    for part in parts:
        assert len(part.encode()) <= 255
        assert not set(part) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                   "._-+")  # fmt: skip
        assert part not in (".", "..")


@given(CHANGES, CHANGES)
def test_conflicts_are_the_deciding_keys_with_other_values(one, other) -> None:
    mine, stored = changed(one), changed(other)
    keys = {key for key, *_ in conflicts(mine, stored)}
    expected = set()
    for path in DECIDING:
        group, _, key = path.rpartition(".")
        values = [(config[group] if group else config)[key] for config in (mine, stored)]
        if values[0] != values[1]:
            expected.add(path)
    assert keys == expected


def test_a_seed_a_method_and_a_classifier_are_told_apart() -> None:
    places = {
        place({}),
        place({"seed": 43}),
        place({"method.name": "gradient"}),
        place({"view.names": ["active"]}),
        place({"classifier.sha256": "cd" * 32}),
        place({"data.name": "cifar10"}),
    }
    assert len(places) == 6


def test_what_is_ignored_is_written_down() -> None:
    """A key that is added here makes runs with different numbers one; see to it that it cannot."""
    assert set(NOT_IDENTITY) == {
        "task", "output_root", "overwrite", "continues", "hydra", "logger", "ckpt", "run",
        "classifier", "labels", "evaluator", "alpha", "tolerance", "least", "kind", "correction",
        "examples", "overlay", "block_size", "maps", "data.workers",
        "data.cache_dir", "data.root", "data.on_corrupt", "trainer.accelerator",
        "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.threads",
        "trainer.progress", "trainer.timeout", "engine.frozen_copy", "engine.compile",
        "engine.calibration", "engine.maps_batch", "engine.scores_batch",
    }  # fmt: skip
