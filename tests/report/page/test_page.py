"""The report as files: what is in the page, the tables and the figures, and how large they are."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from saliency_lab.errors import UserError
from saliency_lab.evaluation.deletion.removal import PAPER_FRACTIONS
from saliency_lab.evaluation.rows.format import table_path
from saliency_lab.evaluation.rows.significance import holm, paired_difference
from saliency_lab.report.comparing.panels import Panel, build_panels
from saliency_lab.report.page import tables
from saliency_lab.report.page.examples import chosen_examples, packed_examples
from saliency_lab.report.page.overview import overview_rows
from saliency_lab.report.page.page import ReportFiles, write_report
from saliency_lab.report.page.table_texts import csv_text, latex_text, markdown_text
from saliency_lab.report.reading.records import EvaluationRun, read_records
from saliency_lab.reproductions.published import PUBLISHED_FRACTIONS, published
from saliency_lab.tasks import report as report_task

from ..rundirs import FRACTIONS, PAPER_VIEWS, MadeUp, write_evaluation, write_training


def _data(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found
    return json.loads(found[1])


@pytest.fixture(scope="session")
def panels(outputs: Path) -> list[Panel]:
    return build_panels(read_records(outputs).evaluations)


def test_page_names_every_run_and_escapes_what_they_say(report: ReportFiles) -> None:
    text = report.page.read_text(encoding="utf-8")
    assert "CIFAR-10 · ResNet-18" in text
    assert "evaluate/cifar10/convnext_tiny/paper/seed=42" in text
    assert "out of &lt;memory&gt; &amp; time" in text
    assert "torch 2.15.0" in text
    assert "AMD EPYC 7B13, 16 cores" in text


def test_page_says_where_a_training_is_not_what_is_measured(tmp_path: Path) -> None:
    """Running statistics that lag, and beside it a training whose statistics do not."""
    for name, accuracy, lags in (("seed-1", 0.5039, True), ("seed-2", 0.94, False)):
        asked = {"accuracy": accuracy, "low": 0.4432, "high": 0.96, "lags": lags}
        write_training(tmp_path / "outputs", name=name, in_evaluation=asked)
    write_training(tmp_path / "outputs", name="seed-3")  # of a version that did not ask
    report = write_report(tmp_path / "outputs", None, tmp_path / "report")
    text = report.page.read_text(encoding="utf-8")
    (notice,) = re.findall(r'<p class="notice">The network that is measured(.*?)</p>', text)
    assert "0.504 [0.443, 0.960]" in notice
    assert "0.951" in notice
    table = pd.read_csv(tmp_path / "report" / "tables" / "trainings.csv")
    shown = table.set_index("run")["in evaluation"].to_dict()
    assert [shown.get(f"train/cifar10/resnet18/seed-{n}") for n in (1, 2)] == [0.5039, 0.94]
    assert table["in evaluation"].isna().sum() == 1


def test_page_names_no_address_to_fetch(report: ReportFiles) -> None:
    text = report.page.read_text(encoding="utf-8")
    assert not re.findall(r"https?://", text)
    links = re.findall(r'(?:href|src)="([^"#][^"]*)"', text)
    for link in links:
        assert link == "data:," or (report.page.parent / link).is_file(), link


def test_figures_and_tables_come_in_all_their_forms(report: ReportFiles) -> None:
    figures = {path.name for path in report.figures}
    for name in ("curves-cifar-10-resnet-18", "examples-cifar-10-cnn"):
        assert {f"{name}.png", f"{name}.pdf"} <= figures
    names = {path.stem for path in report.tables}
    assert names == {
        *(
            "scores",
            "reference",
            "disagreement",
            "evaluations",
            "trainings",
            "cost",
            "problems",
            "seeds",
            "images",
            "measures",
            "fills",
            "sizes",
        )
    }
    assert len(report.tables) == 3 * len(names)
    for path in (*report.figures, *report.tables):
        assert path.stat().st_size > 0


def test_the_score_table_has_the_numbers_of_the_runs_and_of_the_paper(
    report: ReportFiles, outputs: Path
) -> None:
    table = pd.read_csv(report.page.parent / "tables" / "scores.csv")
    path = outputs / "evaluate/cifar10/basic_cnn/paper/seed=42/summary.json"
    summary = json.loads(path.read_text())
    mine = table[(table["panel"] == "CIFAR-10 · CNN")].set_index(["map", "condition", "score"])
    assert mine.index.is_unique
    found = summary["evaluators"]["deletion"]
    for mean in found["means"]:
        row = mine.loc[mean["view"], f"{mean['condition']['fill']}-deletion", mean["score"]]
        assert (row["mean"], row["low"], row["high"]) == pytest.approx(
            (mean["value"], mean["low"], mean["high"])
        )
    assert mine.loc[("active", "black-deletion", "allegiance"), "published"] == 0.15
    assert np.isnan(mine.loc[("active", "black-deletion", "logit"), "published"])
    assert np.isnan(mine.loc[("active", "white-deletion", "allegiance"), "published"])
    # The page compares with the original alone, and corrects for as many.
    shown = [
        one for one in found["comparisons"] if "original" in (one["a"]["view"], one["b"]["view"])
    ]
    corrected = holm([one["p"] for one in shown])
    for comparison, p_holm in zip(shown, corrected, strict=True):
        views = [comparison[side]["view"] for side in "ab"]
        view, sign = (views[0], 1) if views[1] == "original" else (views[1], -1)
        row = mine.loc[view, f"{comparison['condition']['fill']}-deletion", "allegiance"]
        assert row["difference"] == pytest.approx(sign * comparison["difference"])
        assert row["p (Holm)"] == pytest.approx(p_holm)
    assert len(shown) == 2 * 4


def test_methods_of_separate_runs_are_compared_on_the_same_images(panels: list[Panel]) -> None:
    (panel,) = (panel for panel in panels if panel.title == "CIFAR-10 · ResNet-18")
    assert len(panel.maps) == 10
    assert len(panel.comparison_of) == 9 * 2
    wide = panel.scores.pivot_table(
        index="sample_id", columns=["key", "mode", "fill"], values="allegiance"
    )
    places = sorted(panel.comparison_of)
    found = [
        paired_difference(wide[key, *condition], wide["gradient/original", *condition])
        for key, condition in places
    ]
    corrected = holm([difference.p for difference in found])
    for place, difference, p_holm in zip(places, found, corrected, strict=True):
        assert panel.comparison_of[place].difference == pytest.approx(difference.difference)
        assert panel.comparison_of[place].p_holm == pytest.approx(p_holm)


def test_a_comparison_written_the_other_way_round_is_turned(tmp_path: Path) -> None:
    run = write_evaluation(tmp_path, count=12, size=8, shown=2)
    path = run / "summary.json"
    summary = json.loads(path.read_text())
    straight = build_panels(read_records(tmp_path).evaluations)[0].comparison_of
    for comparison in summary["evaluators"]["deletion"]["comparisons"]:
        comparison["a"], comparison["b"] = comparison["b"], comparison["a"]
        low, high = comparison["low"], comparison["high"]
        comparison |= {"difference": -comparison["difference"], "low": -high, "high": -low}
    path.write_text(json.dumps(summary))
    turned = build_panels(read_records(tmp_path).evaluations)[0].comparison_of
    assert straight.keys() == turned.keys()
    for place, comparison in straight.items():
        assert turned[place].difference == pytest.approx(comparison.difference)
        assert (turned[place].low, turned[place].high) == pytest.approx(
            (comparison.low, comparison.high)
        )


def test_panels_that_share_a_name_are_told_apart(tmp_path: Path) -> None:
    write_evaluation(tmp_path, count=6, size=8, shown=2)
    write_evaluation(tmp_path, count=6, size=8, shown=2, split="train", name="train/seed=42")
    titles = [panel.title for panel in build_panels(read_records(tmp_path).evaluations)]
    assert titles == ["CIFAR-10 · ResNet-18 (test split)", "CIFAR-10 · ResNet-18 (train split)"]


def test_published_numbers_stand_beside_the_test_split_only(tmp_path: Path) -> None:
    for split in ("test", "train"):
        write_evaluation(
            tmp_path, count=6, size=8, shown=2, split=split, model="basic_cnn", name=f"{split}/s"
        )
    standard = {"protocol": "standard"}
    run = write_evaluation(
        tmp_path, count=6, size=8, shown=2, model="basic_cnn", name="other/s", settings=standard
    )
    path = run / "summary.json"
    summary = json.loads(path.read_text())
    summary["evaluators"]["deletion"]["facts"]["protocol"] = "standard"
    path.write_text(json.dumps(summary))
    panels = build_panels(read_records(tmp_path).evaluations)
    found = {panel.runs[0].name.split("/")[-2]: panel.published for panel in panels}
    assert {name for name, numbers in found.items() if numbers} == {"test"}
    write_report(tmp_path, None, tmp_path / "report")
    table = pd.read_csv(tmp_path / "report" / "tables" / "scores.csv")
    beside = table[table["published"].notna()]
    assert len(beside) == 6
    assert set(beside["panel"].str.contains("test split")) == {True}


def test_what_the_page_draws_is_what_the_run_measured(panels: list[Panel]) -> None:
    panel = next(panel for panel in panels if panel.title == "CIFAR-10 · CNN")
    examples = chosen_examples(panel, 5)
    assert examples is not None
    run: EvaluationRun = panel.runs[0]
    rows = pd.read_parquet(run.path / "deletion.parquet")
    packed = packed_examples(examples, 16)
    shape = (len(PAPER_VIEWS), 2, len(FRACTIONS))
    with np.load(run.path / "examples.npz") as stored:
        ids = list(stored["ids"])
        for item in packed:
            stack = np.frombuffer(zlib.decompress(b64decode(item["levels"])), np.uint8)
            expected = np.stack(
                [stored[f"deletion|levels:{v}"][ids.index(item["id"])] for v in PAPER_VIEWS]
            )
            np.testing.assert_array_equal(stack.reshape(expected.shape), expected)
            predictions = np.frombuffer(b64decode(item["predictions"]), "<u2").reshape(shape)
            probabilities = np.frombuffer(b64decode(item["probabilities"]), np.uint8)
            mine = rows[(rows["sample_id"] == item["id"]) & (rows["fill"] == "white")]
            active = mine[mine["view"] == "active"].sort_values("fraction")
            np.testing.assert_array_equal(predictions[3, 1], active["prediction"])
            np.testing.assert_allclose(
                probabilities.reshape(shape)[3, 1] / 255, active["probability"], atol=0.002
            )


def test_what_was_not_measured_is_marked(tmp_path: Path) -> None:
    black = ["original", "active"]
    write_evaluation(tmp_path, count=6, size=8, shown=3, views=black, fills=["black"])
    white = ["original", "inactive"]
    write_evaluation(
        tmp_path, count=6, size=8, shown=3, views=white, fills=["white"], name="white/seed=42"
    )
    (panel,) = build_panels(read_records(tmp_path).evaluations)
    assert [one.label for one in panel.maps] == ["original", "active", "inactive"]
    examples = chosen_examples(panel, 3)
    assert examples is not None
    packed = packed_examples(examples, 8)[0]
    predictions = np.frombuffer(b64decode(packed["predictions"]), "<u2").reshape(3, 2, -1)
    missing = (predictions == 65535).all(axis=2)
    assert missing.tolist() == [[False, False], [False, True], [True, False]]


def test_a_fraction_that_was_drawn_for_no_image_has_no_value(tmp_path: Path) -> None:
    run = write_evaluation(tmp_path / "runs", draws=3, count=2, size=8, shown=2, views=["original"])
    curves = pd.read_csv(table_path(run, "deletion", "curves"))
    files = write_report(tmp_path / "runs", None, tmp_path / "report")
    assert "evaluated at 3 of the 13 fractions" in files.page.read_text(encoding="utf-8")
    (panel,) = _data(files.page)["panels"].values()
    ((black, white),) = panel["values"].values()
    for fill, found in (("black", black), ("white", white)):
        part = curves[curves["fill"] == fill].set_index("fraction")["allegiance"]
        assert 3 <= len(part) < len(FRACTIONS)
        values = {at: point[0] for at, point in zip(FRACTIONS, found, strict=True) if point}
        assert values == pytest.approx(part.to_dict(), abs=1e-4)


def test_images_that_methods_dispute_are_always_shown(panels: list[Panel]) -> None:
    panel = next(panel for panel in panels if panel.title == "CIFAR-10 · ResNet-18")
    examples = chosen_examples(panel, 6)
    assert examples is not None
    kept = panel.runs[0].example_ids
    wide = panel.scores.pivot_table(
        index=["sample_id", "fill"], columns="key", values="allegiance"
    ).loc[list(kept)]
    gap = (wide.max(axis=1) - wide.min(axis=1)).groupby("sample_id").max()
    shown = gap[examples.ids]
    assert shown.min() >= gap.drop(examples.ids).max()
    first = examples.labels[: len(set(examples.labels))]
    assert len(set(first)) == len(first), "every class comes once before one comes twice"


def test_page_of_a_large_run_stays_below_five_megabytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    run = write_evaluation(tmp_path, count=1000, size=8, shown=50)
    with np.load(run / "examples.npz") as stored:
        kept = dict(stored)
    # Pictures and maps of full size, as noisy as they come: nothing of them compresses.
    kept["images"] = rng.integers(0, 256, (50, 3, 28, 28), dtype=np.uint8).repeat(8, 2).repeat(8, 3)
    for view in PAPER_VIEWS:
        kept[f"map:gradient/{view}"] = rng.uniform(size=(50, 224, 224)).astype(np.float16)
        kept[f"deletion|levels:{view}"] = rng.integers(1, 14, (50, 224, 224), dtype=np.uint8)
    np.savez(run / "examples.npz", **kept)
    page = write_report(tmp_path, None, tmp_path / "report").page
    assert page.stat().st_size < 5_000_000
    (examples,) = _data(page)["examples"].values()
    assert len(examples["items"]) == 50
    assert examples["width"] >= 96


def test_a_page_of_many_panels_shows_fewer_examples_rather_than_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for seed in range(3):
        write_evaluation(tmp_path, name=f"paper/seed={seed}", seed=seed, size=32, shown=12)
    whole = write_report(tmp_path, None, tmp_path / "whole").page
    shown = {name: one["items"] for name, one in _data(whole)["examples"].items()}
    assert [len(items) for items in shown.values()] == [12] * 3
    wanted = whole.stat().st_size - len(json.dumps(shown)) // 2
    monkeypatch.setattr("saliency_lab.report.page.page.PAGE_BYTES", wanted)
    monkeypatch.setattr("saliency_lab.report.page.page.EXAMPLE_BYTES", 0)
    with caplog.at_level("INFO"):
        page = write_report(tmp_path, None, tmp_path / "small").page
    assert page.stat().st_size < 1.02 * wanted
    counts = [len(one["items"]) for one in _data(page)["examples"].values()]
    assert all(4 <= count < 12 for count in counts)
    assert "% of the examples to limit its size" in caplog.text
    # Charts and tables may take more than all of it: examples then have what is kept for them.
    kept = len(json.dumps(shown)) // 2
    monkeypatch.setattr("saliency_lab.report.page.page.PAGE_BYTES", 0)
    monkeypatch.setattr("saliency_lab.report.page.page.EXAMPLE_BYTES", kept)
    page = write_report(tmp_path, None, tmp_path / "full").page
    assert page.stat().st_size < 1.02 * wanted
    assert [len(one["items"]) for one in _data(page)["examples"].values()] == counts


def test_a_second_report_removes_what_the_first_one_left(tmp_path: Path) -> None:
    write_evaluation(tmp_path, count=6, size=8, shown=2)
    write_evaluation(tmp_path, count=6, size=8, shown=2, model="basic_cnn")
    target = tmp_path / "report"
    assert len(write_report(tmp_path, None, target).figures) == 8
    write_report(tmp_path, ["evaluate/cifar10/basic_cnn"], target)
    assert len(list((target / "figures").glob("[!.]*"))) == 4


def test_tables_that_no_report_wrote_stay_whatever_they_are_called(tmp_path: Path) -> None:
    write_evaluation(tmp_path, count=6, size=8, shown=2)
    folder = tmp_path / "report" / "tables"
    folder.mkdir(parents=True)
    own = [folder / name for name in ("seeds.csv", "problems.tex", "verdict.md")]
    for path in own:
        path.write_text("mine")
    write_report(tmp_path, None, tmp_path / "report")
    assert {path.read_text() for path in own} == {"mine"}
    # What a report has written goes with what it was of.
    failed = write_evaluation(tmp_path, model="basic_cnn", count=6, size=8, shown=2)
    (failed / "summary.json").unlink()
    tables = write_report(tmp_path, None, tmp_path / "report").tables
    written = [path for path in tables if path.stem == "problems"]
    assert [path.suffix for path in written] == [".csv", ".md", ".tex"]
    write_report(tmp_path, ["evaluate/cifar10/resnet18"], tmp_path / "report")
    assert not any(path.exists() for path in written)
    assert (folder / "scores.csv").is_file()
    assert own[0].read_text() == "mine"


def test_only_figures_that_show_something_new_are_drawn_again(tmp_path: Path) -> None:
    small = {"count": 6, "size": 8, "shown": 2, "views": ["original", "active"]}
    run = write_evaluation(tmp_path, **small)
    write_evaluation(tmp_path, **small, model="basic_cnn")
    target = tmp_path / "report"

    def drawn_anew() -> set[str]:
        files = sorted(target.glob("figures/*.p*"))
        before = {path.name: path.read_bytes() for path in files}
        for path in files:
            path.write_bytes(b"left alone")
        write_report(tmp_path, None, target)
        after = {path.name: path.read_bytes() for path in target.glob("figures/*.p*")}
        assert after.keys() >= before.keys()
        return {name for name, content in after.items() if content != b"left alone"}

    write_report(tmp_path, None, target)
    assert len(list(target.glob("figures/*.p*"))) == 8
    assert drawn_anew() == set()
    curves = pd.read_csv(run / "deletion-curves.csv")
    curves.loc[3, "allegiance"] += 1e-6
    curves.to_csv(run / "deletion-curves.csv", index=False)
    name = "curves-cifar-10-resnet-18"
    assert drawn_anew() == {f"{name}.png", f"{name}.pdf"}
    (target / "figures" / f"{name}.pdf").unlink()
    assert drawn_anew() == {f"{name}.png", f"{name}.pdf"}
    write_evaluation(tmp_path, **small, data="shapes")
    assert all("shapes" in name for name in drawn_anew())


def test_only_unfinished_runs_is_a_user_error_that_names_them(tmp_path: Path) -> None:
    run = write_evaluation(tmp_path, count=6, size=8, shown=2)
    (run / "summary.json").unlink()
    with pytest.raises(UserError, match="paper/seed=42: unfinished") as caught:
        write_report(tmp_path, None, tmp_path / "report")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report").exists()


def test_a_run_without_kept_examples_still_has_its_curves(tmp_path: Path) -> None:
    run = write_evaluation(tmp_path, count=6, size=8, shown=2)
    (run / "examples.npz").unlink()
    text = write_report(tmp_path, None, tmp_path / "report").page.read_text(encoding="utf-8")
    assert 'id="curves"' in text
    assert 'id="examples"' not in text


def test_disagreement_lists_the_widest_gaps_of_all_images(
    report: ReportFiles, panels: list[Panel]
) -> None:
    table = pd.read_csv(report.page.parent / "tables" / "disagreement.csv")
    panel = next(panel for panel in panels if panel.title == "CIFAR-10 · CNN")
    part = panel.scores[panel.scores["fill"] == "black"]
    wide = part.pivot_table(index="sample_id", columns="key", values="allegiance")
    first = table[(table["panel"] == panel.title) & (table["condition"] == "black-deletion")].iloc[
        0
    ]
    widest = (wide.max(axis=1) - wide.min(axis=1)).max()
    assert first["highest allegiance"] - first["lowest allegiance"] == pytest.approx(widest)


def test_disagreement_is_of_the_main_score_and_ties_go_to_the_next() -> None:
    values = {
        "yes": {"a": (1, 0.2), "b": (1, 0.9), "c": (0, 0.5)},
        "same": {"a": (0, 0.1), "b": (0, 0.3), "c": (0, 0.2)},
        "close": {"a": (0.5, 1.0), "b": (0.5005, 0.0), "c": (0.5001, 0.0)},
    }
    rows = [
        {"sample_id": sample, "key": key, "main": main, "next": other}
        for sample, maps in values.items()
        for key, (main, other) in maps.items()
    ]
    panel: Any = SimpleNamespace(
        maps=[SimpleNamespace(key=key, label=key.upper()) for key in "abc"],
        found=SimpleNamespace(
            conditions=(), scores=[SimpleNamespace(name="main"), SimpleNamespace(name="next")]
        ),
        scores=pd.DataFrame(rows), main="main", title="Any", condition_text=lambda _: "",
    )  # fmt: skip
    found = tables._disagreements(panel)
    assert [(row["image"], row["lowest"], row["highest"]) for row in found] == [
        ("yes", "C", "B"),
        ("close", "A", "B"),
    ], "where all maps score the same there is no disagreement"


def test_published_areas_stand_beside_the_papers_own_settings_alone() -> None:
    panel: Any = SimpleNamespace(published=published("imagenette", "convnext_tiny", True))

    def inactive(**settings: str) -> Any:
        run = SimpleNamespace(settings={f"view.{name}": value for name, value in settings.items()})
        return SimpleNamespace(method="gradient", view="inactive", run=run)

    one = inactive(channels="max", competitors="none")
    assert tables.published_value(panel, one, ("deletion", "white")) == 0.42
    assert tables.published_value(panel, one, ("insertion", "white")) is None
    assert tables.published_value(panel, inactive(), ("deletion", "white")) == 0.42
    for other in ({"channels": "sum"}, {"competitors": "20"}):
        assert tables.published_value(panel, inactive(**other), ("deletion", "white")) is None


def test_published_areas_are_those_over_the_papers_fractions(tmp_path: Path) -> None:
    assert PUBLISHED_FRACTIONS == PAPER_FRACTIONS
    found = build_panels(read_records(_with_view(tmp_path, {"channels": "max"})).evaluations)[0]
    assert found.published is not None
    assert len(overview_rows([found], [])[0].cells) == 6
    found.found.facts["fractions"] = [0.0, 0.1, 0.2]
    assert found.published is None
    assert overview_rows([found], []) == []


def test_the_papers_table_leaves_out_maps_of_other_settings(tmp_path: Path) -> None:
    panels = build_panels(read_records(_with_view(tmp_path, {"channels": "sum"})).evaluations)
    assert overview_rows(panels, []) == []


def _with_view(outputs: Path, view: dict[str, str]) -> Path:
    write_evaluation(outputs, count=8, config={"view": view})
    return outputs


def test_published_numbers_are_those_of_the_paper() -> None:
    entry = published("imagenette", "convnext_tiny", True)
    assert entry is not None
    assert entry.accuracy == 0.9932
    assert entry.areas["white", "inactive"] == 0.42
    assert published("imagenette", "convnext_tiny", False) is None
    assert published("cifar10", "vgg16", False) is None


def test_small_p_values_are_not_written_as_zero() -> None:
    table = pd.DataFrame({"p": [1e-9, 0.25], "p (Holm)": [2e-4, np.nan], "points": [1e-9, 0.25]})
    assert markdown_text(table).splitlines()[2:] == [
        "| < 0.001 | < 0.001 | 0.0000 |",
        "| 0.250 | – | 0.2500 |",
    ]
    assert "$<$ 0.001 & $<$ 0.001 & 0.0000" in latex_text(table)
    assert csv_text(table).splitlines()[1] == "1e-09,0.0002,1e-09"


def test_signs_that_latex_has_in_formulas_alone_are_written_as_formulas() -> None:
    table = pd.DataFrame({"mean τ": ["−0.2 ± 0.1", "a → b × c", "α ≥ ε·δ"]})
    text = latex_text(table)
    for wanted in (r"mean $\tau$", r"$-$0.2 $\pm$ 0.1", r"a $\to$ b $\times$ c",
                   r"$\alpha$ $\ge$ $\varepsilon$$\cdot$$\delta$"):  # fmt: skip
        assert wanted in text
    assert text.isascii()


def test_a_latex_line_that_begins_like_a_setting_of_the_line_above_is_kept_from_it() -> None:
    table = pd.DataFrame({"interval": ["[.1, .2]", "*", "a [b]"]})
    lines = latex_text(table).splitlines()
    assert lines[4:7] == [r"{}[.1, .2] \\", r"{}* \\", r"a [b] \\"]


def test_runs_are_counted_once_and_seeds_are_no_quantities(tmp_path: Path) -> None:
    small = {"count": 6, "size": 8, "shown": 2, "views": ["original"]}
    run = write_evaluation(tmp_path, **small, seed=20261123, made_up={"mine": MadeUp()})
    path = run / "summary.json"
    summary = json.loads(path.read_text())
    summary["data"]["images"] = 12_000
    path.write_text(json.dumps(summary))
    text = write_report(tmp_path, None, tmp_path / "report").page.read_text(encoding="utf-8")
    assert "1 evaluation and 0 trainings" in text
    assert '<td class="n">20261123</td>' in text
    assert '<td class="n">12,000</td>' in text


def test_tables_escape_what_markdown_and_latex_would_read() -> None:
    table = pd.DataFrame({"a_b": ["x|y", "50 % & $"], "area": [0.25, float("nan")]})
    assert markdown_text(table).splitlines()[2:] == ["| x\\|y | 0.2500 |", "| 50 % & $ | – |"]
    tags = markdown_text(pd.DataFrame({"id": ["<b>bold</b>", "a < b"]}))
    assert tags.splitlines()[2:] == ["| \\<b>bold\\</b> |", "| a < b |"]
    latex = latex_text(table)
    assert "a\\_b & area" in latex
    assert "50 \\% \\& \\$ & -- \\\\" in latex
    assert "{lr}" in latex
    plain = pd.DataFrame({"map": ["active", "original"], "area": ["0.1000", "0.2000"]})
    assert latex_text(plain) == plain.to_latex(index=False)


def test_curves_over_the_deleted_share_move_no_number(outputs: Path, tmp_path: Path) -> None:
    runs = ["evaluate/cifar10/basic_cnn"]
    first, second = (
        write_report(outputs, runs, tmp_path / axis, axis) for axis in ("fraction", "deleted_share")
    )
    for one, other in zip(first.tables, second.tables, strict=True):
        assert one.read_bytes() == other.read_bytes()
    changed = [
        one.name
        for one, other in zip(first.figures, second.figures, strict=True)
        if one.read_bytes() != other.read_bytes()
    ]
    assert changed
    assert all(name.startswith("curves-") for name in changed)
    for files, axis in ((first, "fraction"), (second, "deleted_share")):
        text = files.page.read_text(encoding="utf-8")
        assert f'data-over="{axis}" aria-pressed="true"' in text
        assert re.findall(r'<div data-axis="(\w+)">', text)[0] == axis


def test_a_destination_that_is_no_folder_is_told(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")
    config = {"curves_over": "fraction", "wandb": False, "destination": str(place / "page"),
              "output_root": str(tmp_path), "runs": None}  # fmt: skip
    with pytest.raises(UserError, match="Expected `destination` to be a folder"):
        report_task.run(config, tmp_path)
