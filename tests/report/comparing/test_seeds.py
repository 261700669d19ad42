"""Several seeds of one training as one number."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from saliency_lab.evaluation.deletion.sections import points_of
from saliency_lab.evaluation.rows.intervals import seeds_interval
from saliency_lab.report.comparing.panels import build_panels
from saliency_lab.report.comparing.seeds import SeedGroup, apart_seeds, seed_groups
from saliency_lab.report.page.overview import overview_rows
from saliency_lab.report.page.page import write_report
from saliency_lab.report.reading.records import read_records

from ..rundirs import FRACTIONS, write_evaluation

SMALL = {"count": 12, "size": 8, "shown": 3}


def _groups(outputs: Path) -> list[SeedGroup]:
    return seed_groups(build_panels(read_records(outputs).evaluations))


def _write_seeds(outputs: Path, *seeds: int, **rest: object) -> list[Path]:
    return [
        write_evaluation(outputs, **{**SMALL, "seed": s, "name": f"paper/seed-{s}", **rest})
        for s in seeds
    ]


def test_areas_over_seeds_have_the_interval_of_seeds_and_images(tmp_path: Path) -> None:
    runs = _write_seeds(tmp_path, 1, 2, 3)
    (group,) = _groups(tmp_path)
    assert group.title == "CIFAR-10 · ResNet-18"
    assert group.seeds == [1, 2, 3]
    values = []
    for run in runs:
        rows = pd.read_parquet(run / "deletion.parquet")
        mine = rows[(rows["view"] == "active") & (rows["fill"] == "white")]
        wide = mine.pivot_table(index="sample_id", columns="fraction", values="agrees")
        values.append(np.trapezoid(wide.to_numpy(dtype=float), FRACTIONS, axis=1))
    images = [range(len(each)) for each in values]
    expected = seeds_interval(values, images=images, lowest=0.0, highest=1.0)
    found = group.combined["gradient/active", ("deletion", "white")]
    assert found.value == pytest.approx(expected.value)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert list(found.by_seed.values()) == pytest.approx([each.mean() for each in values])


def test_the_overview_has_one_row_with_a_note_and_the_table_comes_in_all_forms(
    tmp_path: Path,
) -> None:
    _write_seeds(tmp_path, 1, 2, 3)
    report = write_report(tmp_path, None, tmp_path / "report")
    text = report.page.read_text(encoding="utf-8")
    overview = re.search(r'<section id="overview".*?</section>', text, re.S)
    assert overview
    assert overview[0].count('<th scope="row">') == 1
    assert "3 seeds combined: 1, 2, 3" in overview[0]
    (group,) = _groups(tmp_path)
    combined = group.combined["gradient/positive", ("deletion", "black")]
    assert f"{combined.value:.3f}" in overview[0]
    tables = report.page.parent / "tables"
    reference = pd.read_csv(tables / "reference.csv")
    assert reference["seeds"].tolist() == [3]
    assert reference["black positive"].tolist() == pytest.approx([combined.value])
    seeds = pd.read_csv(tables / "seeds.csv")
    assert len(seeds) == 5 * 2
    row = seeds[(seeds["map"] == "positive") & (seeds["condition"] == "black-deletion")].iloc[0]
    assert row["lowest seed"] == pytest.approx(min(combined.by_seed.values()))
    assert row["highest seed"] == pytest.approx(max(combined.by_seed.values()))
    assert (row["seeds"], row["which"]) == (3, "1, 2, 3")
    for suffix in ("md", "tex"):
        assert "positive" in (tables / f"seeds.{suffix}").read_text(encoding="utf-8")


def test_what_differs_in_more_than_the_seed_is_not_combined(tmp_path: Path) -> None:
    for seed, epochs in ((1, 30), (2, 1)):
        config = {"trainer": {"max_epochs": epochs}, "data": {"name": "cifar10", "seed": seed}}
        _write_seeds(tmp_path, seed, config=config)
    assert _groups(tmp_path) == []
    titles = [panel.title for panel in build_panels(read_records(tmp_path).evaluations)]
    assert all("seed" in title for title in titles)


@pytest.mark.parametrize(("epochs", "found"), [((30, 30), 1), ((30, 1), 0), (None, 0)])
def test_classifiers_given_by_a_file_are_combined_by_what_their_trainings_say(
    tmp_path: Path, epochs: tuple[int, int] | None, found: int
) -> None:
    """An evaluation's own settings do not say how the checkpoint that it was given came about."""
    for at, seed in enumerate((1, 2)):
        home = tmp_path / f"train/seed-{seed}"
        if epochs:
            home.mkdir(parents=True)
            trained = {"trainer": {"max_epochs": epochs[at]}, "seed": seed}
            (home / "config.yaml").write_text(yaml.safe_dump(trained))
        config = {
            "ckpt": "some.ckpt",
            "trainer": {"max_epochs": 50},
            "classifier": {"directory": str(home) if epochs else None},
        }
        _write_seeds(tmp_path / "outputs", seed, config=config)
    assert len(_groups(tmp_path / "outputs")) == found


def test_seeds_with_their_own_data_order_are_combined(tmp_path: Path) -> None:
    for seed in (1, 2):
        config = {"trainer": {"max_epochs": 30, "devices": seed}, "data": {"seed": seed}}
        _write_seeds(tmp_path, seed, config=config)
    (group,) = _groups(tmp_path)
    assert group.seeds == [1, 2]


def _on_other_images(run: Path, fingerprint: str, classes: Sequence[str] | None = None) -> None:
    path = run / "summary.json"
    summary = json.loads(path.read_text())
    summary["data"] |= {"fingerprint": fingerprint} | ({"classes": classes} if classes else {})
    path.write_text(json.dumps(summary))


def test_seeds_on_different_images_are_not_combined_and_said_to_be_so(tmp_path: Path) -> None:
    first, *_ = _write_seeds(tmp_path, 0, 1)
    _on_other_images(first, "other")
    said = "2 seeds (0, 1) of CIFAR-10 · ResNet-18 were measured on different images"
    assert _groups(tmp_path) == []
    text = write_report(tmp_path, None, tmp_path / "report").page.read_text(encoding="utf-8")
    assert said in text
    assert 'href="#seeds"' in text
    # A third is combined with the second, which leaves the first.
    _write_seeds(tmp_path, 2)
    (group,) = _groups(tmp_path)
    assert group.seeds == [1, 2]
    text = write_report(tmp_path, None, tmp_path / "report").page.read_text(encoding="utf-8")
    assert "3 seeds (0, 1, 2) of CIFAR-10 · ResNet-18 were" in text
    # All of them on the same images, and one of them on others as well.
    _write_seeds(tmp_path, 0, name="again/seed-0")
    assert apart_seeds(build_panels(read_records(tmp_path).evaluations)) == []


def test_one_classifier_on_two_sets_of_images_is_not_two_seeds(tmp_path: Path) -> None:
    first, _ = _write_seeds(tmp_path, 1, 2, checkpoint=9)
    _on_other_images(first, "other")
    assert apart_seeds(build_panels(read_records(tmp_path).evaluations)) == []


def test_families_of_other_classes_are_rows_of_their_own_that_name_them(tmp_path: Path) -> None:
    for name, classes in (("pets", ["cat", "dog"]), ("cars", list("abcdef"))):
        for seed in (1, 2):
            at = sum(map(ord, name)) + seed
            (run,) = _write_seeds(tmp_path, seed, name=f"{name}/seed-{seed}", checkpoint=at)
            _on_other_images(run, name, classes)
    panels = build_panels(read_records(tmp_path).evaluations)
    titles = {"CIFAR-10 · ResNet-18 (classes a, b, c, d and 2 more)",
              "CIFAR-10 · ResNet-18 (classes cat, dog)"}  # fmt: skip
    groups = seed_groups(panels)
    assert {group.title for group in groups} == titles
    assert apart_seeds(panels) == []
    assert {row.title for row in overview_rows(panels, groups)} == titles
    # Whatever their titles are, two families are two rows.
    same = [replace(group, title="the same") for group in groups]
    assert len(overview_rows(panels, same)) == 2


def test_one_classifier_under_two_seeds_is_no_second_classifier(tmp_path: Path) -> None:
    _write_seeds(tmp_path, 1, 2, checkpoint=9)
    assert _groups(tmp_path) == []


def test_a_method_of_other_settings_is_not_combined(tmp_path: Path) -> None:
    for seed, samples in ((1, 50), (2, 20)):
        _write_seeds(tmp_path, seed)
        config = {"method": {"name": "smoothgrad", "samples": samples}}
        write_evaluation(
            tmp_path,
            **SMALL,
            seed=seed,
            method="smoothgrad",
            views=["original"],
            name=f"smoothgrad/seed-{seed}",
            config=config,
        )
    (group,) = _groups(tmp_path)
    smooth = {key: one for (key, _), one in group.combined.items() if "smooth" in key}
    assert [list(one.by_seed) for one in smooth.values()] == [[1], [2]]
    text = write_report(tmp_path, None, tmp_path / "report").page.read_text(encoding="utf-8")
    section = re.search(r'<section id="seeds".*?</section>', text, re.S)
    assert section
    assert "active" in section[0]
    assert "smoothgrad" not in section[0]


def test_of_a_seeds_epochs_the_one_that_most_seeds_have_counts(tmp_path: Path) -> None:
    for seed, epochs in {1: (50, 12), 2: (50,), 3: (9, 50)}.items():
        for hour, epoch in enumerate(epochs):
            _write_seeds(
                tmp_path, seed, name=f"of-{epoch}/seed-{seed}", checkpoint=100 * seed + epoch,
                epoch=epoch, started=f"2025-02-01T0{hour}:00:00+00:00",
            )  # fmt: skip
    (group,) = _groups(tmp_path)
    assert group.seeds == [1, 2, 3]
    assert {panel.summary.checkpoint["epoch"] for panel in group.panels} == {50}
    titles = {panel.title for panel in build_panels(read_records(tmp_path).evaluations)}
    assert any("epoch 12" in title for title in titles)


def test_the_latest_evaluation_of_a_seed_counts(tmp_path: Path) -> None:
    """Of two trainings with one seed, whichever order their names have."""
    for hours in (("08", "09"), ("09", "08")):
        outputs = tmp_path / "-".join(hours)
        for checkpoint, hour in zip((1, 5), hours, strict=True):
            started = f"2025-02-01T{hour}:00:00+00:00"
            name = f"of-{checkpoint}/seed-1"
            _write_seeds(outputs, 1, name=name, checkpoint=checkpoint, started=started)
        _write_seeds(outputs, 2)
        (group,) = _groups(outputs)
        assert group.seeds == [1, 2]
        latest = 5 if hours == ("08", "09") else 1
        assert group.panels[0].runs[0].name.split("/")[-2] == f"of-{latest}"
        place = ("gradient/active", ("deletion", "white"))
        scores = pd.read_parquet(
            outputs / f"evaluate/cifar10/resnet18/of-{latest}/seed-1/scores/deletion.parquet"
        )
        mine = scores[(scores["view"] == "active") & (scores["fill"] == "white")]
        assert group.combined[place].by_seed[1] == pytest.approx(mine["allegiance"].mean())


def test_every_seed_is_shown_with_its_own_curves(tmp_path: Path) -> None:
    runs = _write_seeds(tmp_path, 1, 2, 3)
    panels = build_panels(read_records(tmp_path).evaluations)
    shown = []
    for panel, run in zip(panels, runs, strict=True):
        written = pd.read_csv(run / "deletion-curves.csv")
        points = points_of(panel)
        for view in ("original", "active"):
            mine = points[points["key"] == f"gradient/{view}"]
            theirs = written[written["view"] == view]
            assert mine["allegiance"].tolist() == theirs["allegiance"].tolist()
            shown.append(tuple(mine["probability"]))
    assert len(set(shown)) == 6
