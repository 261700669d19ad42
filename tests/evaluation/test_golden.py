"""One small evaluation, every column of every table: numbers that no change may move silently.

Where they are meant to move, `python -m tests.evaluation.test_golden` writes them anew, and the
difference is part of the change that is looked at.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from saliency_lab.attribution.methods.gradient import gradient
from saliency_lab.evaluation.context import Method
from saliency_lab.evaluation.deletion.evaluator import Deletion
from saliency_lab.evaluation.loop import MAPS
from saliency_lab.evaluation.rows.aggregation import comparisons, score_means
from saliency_lab.inference.engine import Engine

from .small_run import Fixed, measured

GOLDEN = Path(__file__).resolve().parent / "golden"
TABLES = ("intact", "rows", "scores", "means", "comparisons", "curves")


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """What the evaluation gives, as flat tables of text and numbers."""
    evaluator = Deletion(
        modes=["deletion", "insertion"], fills=["black", "blur", "noise", "shift+0.1"],
        fractions=[0.0, 0.05, 0.2, 0.5, 0.9],
    )  # fmt: skip
    method = Method("gradient", gradient, ("original", "negative", "active"))
    # In float64 a gradient's float32 is the same on any machine, and so is the order of pixels.
    plan = measured(folder, {"deletion": evaluator}, method, network=Fixed().double(),
                    engine=Engine(frozen_copy=False))  # fmt: skip
    rows = plan.shards["deletion"].rows()
    scores = evaluator.image_scores(rows)
    return {
        "intact": plan.shards[MAPS].rows(),
        "rows": rows,
        "scores": scores,
        "means": pd.json_normalize(score_means(evaluator, scores, 100)),
        "comparisons": pd.json_normalize(comparisons(evaluator, scores, 100)),
        "curves": evaluator.tables(rows, 100)["curves"],
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    return tables(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", TABLES)
def test_every_column_is_what_it_was(found: dict[str, pd.DataFrame], name: str) -> None:
    expected = pd.read_csv(GOLDEN / f"{name}.csv", keep_default_na=False, na_values=["nan"])
    mine = found[name]
    assert list(mine.columns) == list(expected.columns)
    assert len(mine) == len(expected) > 0
    for column in mine.columns:
        if pd.api.types.is_float_dtype(expected[column]):
            # Machines differ in the last digits of a blur.
            values = mine[column].to_numpy(np.float64)
            np.testing.assert_allclose(values, expected[column], rtol=2e-3, atol=2e-4)
        else:
            # A score without a better side has none in either.
            texts = ["" if pd.isna(value) else str(value) for value in mine[column]]
            assert texts == expected[column].astype(str).tolist()


def test_the_golden_numbers_say_something() -> None:
    """Nothing constant stands in them that ought to vary."""
    rows = pd.read_csv(GOLDEN / "rows.csv")
    for column in ("sample_id", "index", "label", "view", "mode", "fill", "fraction", "deleted",
                   "prediction", "agrees", "probability", "logit"):  # fmt: skip
        assert rows[column].nunique() > 1, column
    assert rows["prediction"].nunique() > 4
    assert 0.2 < rows["agrees"].mean() < 0.9
    means = pd.read_csv(GOLDEN / "means.csv")
    assert (means["low"] <= means["value"]).all()
    assert (means["value"] <= means["high"]).all()
    compared = pd.read_csv(GOLDEN / "comparisons.csv")
    assert (compared["p_holm"] >= compared["p"]).all()
    assert (compared["p_holm"] > compared["p"]).any()


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        for table_name, table in tables(Path(place)).items():
            table.to_csv(GOLDEN / f"{table_name}.csv", index=False, float_format="%.6g")
