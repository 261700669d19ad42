"""What the tasks record on W&B, read back from the offline records by wandb's own reader."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pandas as pd
import psutil
import pytest
import wandb
import yaml

from saliency_lab.cli.command import run
from saliency_lab.errors import UserError
from saliency_lab.report.comparing.panels import build_panels
from saliency_lab.report.reading.records import read_records
from saliency_lab.tracking import records
from saliency_lab.tracking.charts import example_table
from saliency_lab.tracking.epoch_logger import EpochLogger
from saliency_lab.tracking.records import artifact_name, record_evaluation
from saliency_lab.tracking.tracking import Record, tracking, wandb_faults
from saliency_lab.tracking.view import saved_view

from ..report.rundirs import write_evaluation

TINY = [
    "data.train_images=120", "data.test_images=24", "trainer.max_epochs=2", "trainer.threads=1",
    "logger.mode=offline",
]  # fmt: skip
CONFIG = {"task": "evaluate", "data": {"name": "shapes"}, "model": {"name": "tiny"}}


class Recorded:
    """An offline record as `wandb leet inspect` prints it."""

    def __init__(self, directory: Path) -> None:
        (self.folder,) = (directory / "wandb").glob("offline-run-*")
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(self.folder)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        self.records = [json.loads(line) for line in text.splitlines()]
        self.run = self.of("run")[0]
        self.config = self.run["config"]["update"]
        self.history = [entry["item"] for entry in self.of("history")]
        self.axis = {entry["name"]: entry.get("step_metric") for entry in self.of("metric")}
        self.summary: dict[str, Any] = {}
        for entry in self.of("summary"):
            self.summary.update(entry.get("update", {}))
        self.artifacts = {
            entry["type"]: entry for entry in self.of("artifact") if entry["type"] != "run_table"
        }

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [record[kind] for record in self.records if record["type"] == kind]

    def curve(self, axis: str, name: str) -> list[tuple[float, float]]:
        return [(row[axis], row[name]) for row in self.history if name in row and axis in row]

    def table(self, key: str) -> pd.DataFrame:
        """As W&B shows it: from the table's own artifact, with its pictures."""
        name = f"{key}.table.json"
        (path,) = (
            entry["local_path"]
            for artifact in self.of("artifact")
            for entry in artifact["manifest"]["contents"]
            if entry["path"] == name
        )
        content = json.loads(Path(path).read_text())
        return pd.DataFrame(content["data"], columns=content["columns"])

    def files_of(self, kind: str) -> set[str]:
        return {entry["path"] for entry in self.artifacts[kind]["manifest"]["contents"]}

    def metadata(self, kind: str) -> dict[str, Any]:
        return json.loads(self.artifacts[kind]["metadata"])


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training, an evaluation of five maps, one of a single map, and their report."""
    place = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("SALIENCY_LAB_CACHE", str(place / "cache"))
        patch.delenv("WANDB_MODE", raising=False)
        for words in (
            ("train", *TINY),
            ("evaluate", "method=five_views", *TINY),
            ("evaluate", "method=active", "logger.tags=[mine]", *TINY),
            ("compare", "a=active", "b=original", "condition=[black]", *TINY),
            ("report", "wandb=true", "logger.mode=offline"),
        ):
            patch.setattr(sys, "argv", ["saliency-lab", *words])
            with pytest.raises(SystemExit) as stop:
                run()
            assert not stop.value.code, words
    return place / "outputs"


def directory_of(outputs: Path, folder: str) -> Path:
    (found,) = (path.parent for path in (outputs / folder).glob("*/summary.json"))
    return found


@pytest.fixture(scope="module")
def training(outputs: Path) -> Recorded:
    return Recorded(directory_of(outputs, "train/shapes/basic_cnn"))


@pytest.fixture(scope="module")
def five(outputs: Path) -> Recorded:
    return Recorded(directory_of(outputs, "evaluate/shapes/basic_cnn/all"))


@pytest.fixture(scope="module")
def active(outputs: Path) -> Recorded:
    return Recorded(directory_of(outputs, "evaluate/shapes/basic_cnn/active"))


def test_runs_are_grouped_typed_tagged_and_configured_flat(
    outputs: Path, training: Recorded, five: Recorded, active: Recorded
) -> None:
    kinds = {"train": training, "evaluate": five}
    for task, recorded in (*kinds.items(), ("evaluate", active)):
        assert recorded.run["project"] == "saliency_lab"
        assert recorded.run["run_group"] == "shapes/basic_cnn"
        assert recorded.run["job_type"] == recorded.config["task"] == task
        assert recorded.config["trainer.max_epochs"] == 2
        assert not any(
            isinstance(value, dict) for k, value in recorded.config.items() if k[0] != "_"
        )
    assert set(active.run["tags"]) == {"shapes", "basic_cnn", "gradient", "mine"}
    assert active.config["view.names"] == ["active"]
    directory = directory_of(outputs, "evaluate/shapes/basic_cnn/active")
    stored = yaml.safe_load((directory / "config.yaml").read_text())
    assert active.config["evaluator.deletion.protocol"] == "threshold"
    assert stored["evaluator"]["deletion"]["protocol"] == "threshold"


def test_training_has_its_curves_on_an_epoch_axis(outputs: Path, training: Recorded) -> None:
    directory = directory_of(outputs, "train/shapes/basic_cnn")
    metrics = pd.read_csv(directory / "metrics.csv")
    for name in ("train/loss", "train/accuracy", "lr"):
        assert training.axis[name] == "epoch"
        points = training.curve("epoch", name)
        assert [epoch for epoch, _ in points] == [1, 2]
        np.testing.assert_allclose([v for _, v in points], metrics[name], rtol=1e-6)
    assert "*" not in training.axis
    summary = json.loads((directory / "summary.json").read_text())
    for name, value in summary["test"].items():
        assert training.summary[f"test/{name}"] == pytest.approx(value)
    cells = training.table("charts/confusion_table")
    counts = cells["nPredictions"].to_numpy().reshape(len(summary["confusion"]), -1)
    np.testing.assert_array_equal(counts, summary["confusion"])
    assert cells["Actual"].unique().tolist() == summary["data"]["classes"]


def test_a_training_with_batch_norms_says_what_it_is_in_evaluation(
    outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = directory_of(outputs, "train/shapes/basic_cnn")
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["train"]["in_evaluation"] is None
    asked = {"accuracy": 0.82, "low": 0.77, "high": 0.86, "lags": True}
    summary["train"]["in_evaluation"] = asked
    monkeypatch.setattr(records, "_log_files", lambda *_: None)
    run = SimpleNamespace(summary={}, log=lambda content: None)
    fake: Any = SimpleNamespace(lost=False, kept=nullcontext, run=run)
    records.record_training(fake, summary, directory)
    told = {k: v for k, v in run.summary.items() if k.startswith("train/")}
    assert told == {f"train/in_evaluation/{name}": value for name, value in asked.items()}


@pytest.mark.parametrize("method", ["all", "active"])
def test_curves_lie_on_the_fraction_axis(
    outputs: Path, method: str, request: pytest.FixtureRequest
) -> None:
    recorded = request.getfixturevalue({"all": "five"}.get(method, method))
    directory = directory_of(outputs, f"evaluate/shapes/basic_cnn/{method}")
    curves = pd.read_csv(directory / "deletion-curves.csv", keep_default_na=False)
    for (view, mode, fill), curve in curves.groupby(["view", "mode", "fill"]):
        for score in ("allegiance", "probability", "logit"):
            # A run of one map leaves the view out, so that a sweep's runs share a panel.
            name = f"curves/deletion/{mode}/{fill}/{score}" + (
                f"/{view}" if method == "all" else ""
            )
            assert recorded.axis[name] == "fraction"
            np.testing.assert_allclose(
                recorded.curve("fraction", name), curve[["fraction", score]], rtol=1e-6
            )
            assert name not in recorded.summary
    summary = json.loads((directory / "summary.json").read_text())
    means = summary["evaluators"]["deletion"]["means"]
    assert len(means) == (6 if method == "all" else 1) * 4
    for mean in means:
        name = "/".join(("deletion", *mean["condition"].values(), mean["score"]))
        name += f"/{mean['view']}" if method == "all" else ""
        assert recorded.summary[name] == pytest.approx(mean["value"])


def test_one_chart_has_all_maps(outputs: Path, five: Recorded) -> None:
    lines = five.table("charts/deletion/deletion/black_table")
    assert lines["lineKey"].unique().tolist() == ["original", "positive", "active"]
    assert set(five.table("charts/deletion/deletion/white_table")["lineKey"]) == {
        "original", "negative", "inactive",
    }  # fmt: skip
    curves = pd.read_csv(
        directory_of(outputs, "evaluate/shapes/basic_cnn/all") / "deletion-curves.csv"
    ).query("view == 'active' and fill == 'black'")
    shown = lines[lines["lineKey"] == "active"]
    np.testing.assert_allclose(shown["lineVal"], curves["allegiance"])
    charts = json.dumps(five.of("config"))
    assert "charts/deletion/deletion/black" in charts
    assert "wandb/lineseries/v0" in charts


def test_the_examples_have_image_maps_and_their_own_areas(
    outputs: Path, five: Recorded, active: Recorded
) -> None:
    directory = directory_of(outputs, "evaluate/shapes/basic_cnn/all")
    areas = pd.read_parquet(directory / "scores" / "deletion.parquet")
    rows = five.table("examples")
    assert len(rows) == 24 * 5
    assert list(rows)[:8] == list(active.table("examples"))[:8]
    keys = ["sample_id", "view"]
    for fill in ("black", "white"):
        own = areas[areas["fill"] == fill].astype({"view": str}).set_index(keys)["allegiance"]
        shown = rows.set_index(keys)[f"deletion deletion {fill}"].astype(float)
        pd.testing.assert_series_equal(
            shown.dropna().sort_index(), own.sort_index(), check_names=False, check_dtype=False
        )
    assert (rows["right"] == (rows["label"] == rows["prediction"])).all()
    assert rows["image"].map(lambda image: (image["width"], image["height"])).nunique() == 1
    assert rows["image"].map(lambda image: image["sha256"]).nunique() == 24
    # What a later sync uploads lies beside the record.
    staged = [
        entry["local_path"]
        for artifact in five.of("artifact")
        for entry in artifact["manifest"]["contents"]
        if "local_path" in entry
    ]
    assert staged
    assert all(Path(path).is_file() and directory in Path(path).parents for path in staged)


def test_a_comparison_is_recorded_with_its_verdict_and_the_report_lists_it(outputs: Path) -> None:
    (path,) = (outputs / "compare").rglob("summary.json")
    summary = json.loads(path.read_text())
    recorded = Recorded(path.parent)
    assert recorded.summary["verdict"] == summary["pairs"][0]["sentence"]
    assert recorded.summary["images"] == summary["drawn"]
    (pair,) = recorded.table("pairs").to_dict("records")
    assert (pair["a"], pair["b"], pair["images"]) == ("active", "original", summary["images"])
    page = (outputs / "report" / "index.html").read_text()
    assert summary["pairs"][0]["sentence"].split(" (")[0] in page
    (listed,) = Recorded(outputs / "report").table("verdict/comparisons").to_dict("records")
    assert listed["verdict"] == "undecided"  # the same prediction survives for every image here


def test_artifacts_name_what_they_were_made_from(
    outputs: Path, training: Recorded, active: Recorded
) -> None:
    checkpoint = training.artifacts["checkpoint"]
    rows = active.artifacts["rows"]
    assert training.files_of("checkpoint") == {"checkpoints/last.ckpt"}
    assert active.files_of("rows") == {
        "deletion.parquet", "scores/deletion.parquet", "deletion-curves.csv", "examples.npz",
    }  # fmt: skip
    alias = next(alias for alias in checkpoint["aliases"] if alias != "latest")
    assert active.metadata("rows")["checkpoint_artifact"] == f"{checkpoint['name']}:{alias}"
    assert active.metadata("rows")["checkpoint_sha256"] == training.metadata("checkpoint")["sha256"]
    assert active.summary["checkpoint_artifact"] == f"{checkpoint['name']}:{alias}"
    report = Recorded(outputs / "report")
    assert rows["name"] in report.metadata("report")["rows"]
    assert len(report.metadata("report")["rows"]) == 2
    assert {"index.html", "tables/scores.csv"} <= report.files_of("report")
    assert report.run["job_type"] == "report"
    lines = report.table("charts/shapes-basic-cnn/deletion/black_table")
    assert {"original", "positive"} < set(lines["lineKey"])
    assert list((report.folder / "files" / "media" / "html").glob("page_*.html"))


def test_names_of_artifacts_are_lawful_and_tell_runs_apart(tmp_path: Path) -> None:
    one = tmp_path / "train" / "cifar10" / "resnet18" / "seed-42"
    assert artifact_name("checkpoint", one) == "checkpoint-cifar10-resnet18-seed-42"
    assert artifact_name("rows", one) == artifact_name("rows", Path("/mnt/train") / one.relative_to(
        tmp_path / "train"
    ))  # fmt: skip
    long = [one / ("x" * 200 + end) for end in ("1", "2")]
    names = [artifact_name("rows", path) for path in long]
    assert len(set(names)) == 2
    assert max(map(len, names)) <= 128
    wandb.Artifact(names[0], type="rows")


def test_examples_are_a_sample_with_small_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    count, size = 60, 300
    ids = [f"s{n}" for n in range(count)]
    np.savez(
        tmp_path / "examples.npz",
        ids=np.array(ids), labels=np.zeros(count, int), predictions=np.ones(count, int),
        images=rng.integers(0, 255, (count, 1, size, size), dtype=np.uint8),
        **{"map:gradient/active": rng.random((count, size, size)).astype(np.float16),
           "deletion|levels:active": np.zeros((count, size, size), np.uint8)},
    )  # fmt: skip
    frame = pd.DataFrame({"sample_id": ids, "method": "gradient", "view": "active"})
    frame = frame.assign(mode="deletion", fill="black", allegiance=np.arange(count) / count)
    (tmp_path / "scores").mkdir()
    frame.to_parquet(tmp_path / "scores" / "deletion.parquet")
    frame[["sample_id", "method", "view"]].assign(size=7.5).to_parquet(tmp_path / "extent.parquet")
    evaluators = {
        "deletion": {"scores": [{"name": "allegiance"}], "conditions": ["mode", "fill"]},
        "extent": {"scores": [{"name": "size"}], "conditions": []},
    }
    table = example_table(tmp_path, {"evaluators": evaluators}, ["cat", "dog"], 50)
    assert len(table.data) == 50
    columns = dict(zip(table.columns, table.data[7], strict=True))
    assert columns["deletion deletion black"] == pytest.approx(7 / 60)
    assert columns["extent"] == 7.5
    assert (columns["label"], columns["prediction"], columns["right"]) == ("cat", "dog", False)
    assert columns["image"].image.size == columns["map"].image.size == (100, 100)


class Online:
    """A stand-in for an online run: takes everything, remembers the artifacts it was given."""

    offline = False

    def __init__(self, missing: bool) -> None:
        self.summary: dict[str, Any] = {}
        self.used: list[str] = []
        self.logged: list[wandb.Artifact] = []
        self.missing = missing

    def define_metric(self, name: str, **settings: Any) -> None:
        pass

    def log(self, values: dict[str, Any]) -> None:
        pass

    def use_artifact(self, name: str, type: str) -> None:
        if self.missing:
            raise wandb.errors.CommError("artifact not found")
        self.used.append(f"{type} {name}")

    def log_artifact(self, artifact: wandb.Artifact, aliases: list[str]) -> None:
        self.logged.append(artifact)


@pytest.mark.parametrize("missing", [False, True])
def test_online_the_checkpoint_is_an_input(
    outputs: Path, training: Recorded, missing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    directory = directory_of(outputs, "evaluate/shapes/basic_cnn/active")
    summary = json.loads((directory / "summary.json").read_text())
    online = Online(missing)
    record = Record(online)
    record_evaluation(record, summary, directory)
    checkpoint = training.artifacts["checkpoint"]
    alias = next(alias for alias in checkpoint["aliases"] if alias != "latest")
    expected = f"{checkpoint['name']}:{alias}"
    assert online.used == ([] if missing else [f"checkpoint {expected}"])
    assert (expected in caplog.text) == missing
    assert not record.lost
    assert [artifact.type for artifact in online.logged] == ["rows"]


@pytest.mark.parametrize("known", [True, False])
def test_the_comparison_view_shows_the_groups_runs(
    outputs: Path, known: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    interface = pytest.importorskip("wandb_workspaces.reports.v2.interface", reason="optional")
    sent: dict[str, Any] = {}

    def answer(api: object, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        given = variables or {}
        if "spec" not in given:
            return {"project": {"internalId": "1"} if known else None}
        sent.update(given)
        names = {"id": "view1", "name": given["name"], "displayName": given["displayName"]}
        project = {"id": "1", "name": given["projectName"], "entityName": given["entityName"]}
        times = dict.fromkeys(("createdAt", "updatedAt"), "2026-01-01T00:00:00Z")
        told = {"description": given["description"], "spec": given["spec"], "project": project}
        return {"upsertView": {"view": {**names, **told, **times}}}

    server = SimpleNamespace(
        projects=lambda entity: [SimpleNamespace(name="lab")],
        client=SimpleNamespace(app_url="https://wandb.example"),
    )
    monkeypatch.setattr(interface, "execute_graphql", answer)
    monkeypatch.setattr(interface, "_get_api", lambda: server)
    panels = build_panels(read_records(outputs).evaluations)
    address = saved_view(SimpleNamespace(entity="me", project="lab"), panels)
    if not known:
        assert address is None
        assert "comparison view" in caplog.text
        return
    assert address is not None
    assert address.startswith("https://wandb.example/me/lab/reports/")
    for wanted in ("shapes/basic_cnn", "evaluate", "charts/deletion/deletion/white_table",
                   "wandb/lineseries/v0", "deletion/deletion/black/allegiance/active"):  # fmt: skip
        assert wanted in sent["spec"], wanted


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    wandb.teardown()


def killed_process() -> None:
    for child in psutil.Process().children(recursive=True):
        if "wandb-core" in " ".join(child.cmdline()):
            child.kill()
            child.wait(10)


def test_wandb_dying_is_one_warning_and_the_next_job_is_recorded(
    outputs: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = folder / "first"
    shutil.copytree(
        directory_of(outputs, "evaluate/shapes/basic_cnn/active"),
        directory,
        ignore=shutil.ignore_patterns("wandb"),
    )
    summary = json.loads((directory / "summary.json").read_text())
    with (
        caplog.at_level(logging.WARNING),
        tracking(mode="offline").run(CONFIG, directory) as record,
    ):
        killed_process()
        logger = EpochLogger(record, directory)
        for _ in range(20):  # the first message may still fit into the dead socket
            logger.log_metrics({"train/loss": 1.0}, 1)
        record_evaluation(record, summary, directory)
    assert record.lost
    own = [entry for entry in caplog.records if entry.name.startswith("saliency_lab")]
    warnings = [entry.getMessage() for entry in own]
    assert len(warnings) == 1, warnings
    assert "\n" not in warnings[0]
    with tracking(mode="offline").run(CONFIG, folder / "second") as record:
        record.run.log({"a": 1.0})
    assert Recorded(folder / "second").history[0]["a"] == 1


def test_a_wandb_without_its_inner_errors_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = {
        "WandbApiFailedError", "WandbServiceConnectionError", "HandleAbandonedError",
        "MailboxClosedError",
    }  # fmt: skip
    assert inner < {fault.__name__ for fault in wandb_faults()}
    monkeypatch.setitem(sys.modules, "wandb.sdk.mailbox", None)
    monkeypatch.delattr("wandb.sdk.lib.service.service_connection.WandbApiFailedError")
    monkeypatch.delattr("wandb.sdk.lib.service.service_token.WandbServiceConnectionError")
    assert wandb_faults() == (wandb.Error, OSError)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("mode", ["auto", "offline"])
def test_a_service_of_another_process_that_has_ended_is_no_fault(
    folder: Path,
    mode: Literal["auto", "offline"],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WANDB_SERVICE", f"3-1-unix-{folder / 'none'}")
    with tracking(mode=mode, timeout=1).run(CONFIG, folder) as record:
        assert record is None
    own = [entry for entry in caplog.records if entry.name.startswith("saliency_lab")]
    assert own
    assert all("Failed to connect to service" in entry.getMessage() for entry in own)


def test_a_resumed_training_hands_on_the_epochs_before_it(folder: Path) -> None:
    history = pd.DataFrame({"epoch": [1, 2, 3], "train/loss": [3.0, 2.0, 1.0]})
    with tracking(mode="offline").run(CONFIG, folder) as record:
        logger = EpochLogger(record, folder)
        history.to_csv(folder / "metrics.csv", index=False)
        logger.log_metrics({"train/loss": 1.0, "own": 7.0, "epoch": 2}, 30)
        pd.concat([history, pd.DataFrame({"epoch": [4], "train/loss": [0.5]})]).to_csv(
            folder / "metrics.csv", index=False
        )
        logger.log_metrics({"train/loss": 0.5, "epoch": 3}, 40)
    recorded = Recorded(folder)
    assert recorded.curve("epoch", "train/loss") == [(1, 3), (2, 2), (3, 1), (4, 0.5)]
    assert recorded.curve("epoch", "own") == [(3, 7)]
    assert recorded.axis["own"] == "epoch"


def test_only_the_first_process_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with tracking(mode="offline").run(CONFIG, tmp_path) as record:
        assert record is None
    assert not list(tmp_path.iterdir())


@pytest.fixture
def unread() -> Iterator[None]:
    """wandb reads its variables once a process: before this test, and again after it."""
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("key", ["short", "0" * 40])
def test_a_key_that_is_refused_means_an_offline_record(
    folder: Path, key: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with tracking(mode="auto", timeout=1).run(CONFIG, folder) as record:
        assert record.run.offline
    own = [entry for entry in caplog.records if entry.name.startswith("saliency_lab")]
    assert len(own) == 1
    assert "offline" in own[0].getMessage()


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("variable", ["offline", None])
@pytest.mark.parametrize(("key", "said"), [(None, "no API key"), ("short", "offline: ")])
def test_an_online_record_that_cannot_be_is_said(
    folder: Path,
    variable: str | None,
    key: str | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in {"WANDB_MODE": variable, "WANDB_API_KEY": key}.items():
        monkeypatch.delenv(name, raising=False)
        if value:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("NETRC", str(folder / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(folder))
    with tracking(mode="online", timeout=1).run(CONFIG, folder) as record:
        assert record.run.offline
    (own,) = (entry for entry in caplog.records if entry.name.startswith("saliency_lab"))
    assert said in own.getMessage()


@pytest.mark.parametrize("said", ["offline", "disabled"])
def test_wandbs_own_variable_counts(
    folder: Path, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", said)
    with tracking(mode="auto").run(CONFIG, folder) as record:
        assert (record is None) == (said == "disabled")


@pytest.mark.parametrize("mode", ["auto", "offline"])
def test_a_mode_that_wandb_has_not_is_refused(
    folder: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offlin")
    refused = pytest.raises(UserError, match=r"WANDB_MODE.*Did you mean 'offline'")
    with refused, tracking(mode=mode).run(CONFIG, folder):
        pass
    with tracking(mode="disabled").run(CONFIG, folder) as record:
        assert record is None


def test_the_reports_fixtures_have_the_form_of_a_real_run(outputs: Path, tmp_path: Path) -> None:
    """So that the report's tests, which train nothing, read what the tasks write."""
    real = directory_of(outputs, "evaluate/shapes/basic_cnn/all")
    made = write_evaluation(tmp_path, data="shapes", count=6, size=8, shown=2, fills=["black"])
    for name in ("deletion.parquet", "scores/deletion.parquet"):
        assert list(pd.read_parquet(made / name)) == list(pd.read_parquet(real / name)), name
    curves = [list(pd.read_csv(run / "deletion-curves.csv")) for run in (made, real)]
    assert curves[0] == curves[1]
    with np.load(made / "examples.npz") as mine, np.load(real / "examples.npz") as theirs:
        assert set(mine.files) == set(theirs.files)
        for name in mine.files:
            assert mine[name].dtype.kind == theirs[name].dtype.kind, name
            assert mine[name].ndim == theirs[name].ndim, name
    mine, theirs = (json.loads((run / "summary.json").read_text()) for run in (made, real))
    # What the report does not read.
    assert set(theirs) - set(mine) <= {"completeness", "engine", "estimate"}
    assert set(mine) <= set(theirs)
    mine, theirs = (known["evaluators"]["deletion"] for known in (mine, theirs))
    assert set(mine) == set(theirs)
    assert mine["scores"] == theirs["scores"]
    assert set(mine["cost"]) == set(theirs["cost"])
    for name in ("means", "comparisons"):
        assert set(mine[name][0]) == set(theirs[name][0])
    assert {key: mine[key] for key in ("name", "selects", "conditions", "sections")} == {
        key: theirs[key] for key in ("name", "selects", "conditions", "sections")
    }
