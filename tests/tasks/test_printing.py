"""What an evaluation says in the terminal."""

from __future__ import annotations

import pytest

from saliency_lab.tasks.printing import print_summary


def _mean(condition: dict[str, str], better: str | None) -> dict[str, object]:
    return {
        "method": "gradient", "view": "original", "condition": condition, "score": "allegiance",
        "better": better, "value": 0.5, "low": 0.4, "high": 0.6, "images": 9,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ways", "said"),
    [
        ({"deletion": "lower"}, "deletion: allegiance, lower is better; accuracy"),
        ({"insertion": "higher"}, "deletion: allegiance, higher is better; accuracy"),
        (
            {"deletion": "lower", "insertion": "higher"},
            "deletion: allegiance, lower is better by deletion, higher is better by insertion; ",
        ),
        ({"deletion": None}, "deletion: allegiance; accuracy"),
    ],
)
def test_the_better_side_is_that_of_what_was_measured(
    ways: dict[str, str | None], said: str, capsys: pytest.CaptureFixture[str], tmp_path
) -> None:
    """The evaluator's own word is deletion's; insertion alone must not be read by it."""
    found = {
        "scores": [{"name": "allegiance", "better": "lower"}],
        "conditions": ["mode", "fill"],
        "means": [_mean({"mode": mode, "fill": "black"}, way) for mode, way in ways.items()],
        "facts": {},
    }
    summary = {"evaluators": {"deletion": found}, "warnings": [], "accuracy": {"value": 0.7}}
    print_summary(summary, tmp_path, ["deletion"])
    assert said in capsys.readouterr().out
