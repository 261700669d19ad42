"""What train, evaluate and report record on Weights & Biases."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from saliency_lab.evaluation.rows.format import EXAMPLES, scores_path, table_path
from saliency_lab.report.comparing.panels import build_panels
from saliency_lab.report.drawing.palette import label_of
from saliency_lab.report.page.page import ReportFiles
from saliency_lab.report.page.sections import part_of
from saliency_lab.report.page.tables import score_table
from saliency_lab.tracking.tracking import Record

log = logging.getLogger(__name__)

_AXIS = "fraction"
_SCORES = ("allegiance", "probability", "logit")
_ROW_SUFFIXES = (".parquet", ".csv", ".npz")
_EXAMPLES = 50
_ARTIFACT_NAME_LENGTH = 128
# The report's tables that say which maps may be believed and whether measures agree.
_JUDGING = ("verdict", "sanity", "agreement", "comparisons", "fills", "images", "measures")


def record_training(record: Record | None, summary: Mapping[str, Any], directory: Path) -> None:
    """The test's results, its confusion matrix and the checkpoint; epochs come by EpochLogger."""
    if record is None or record.lost:
        return
    import wandb

    from saliency_lab.tracking.charts import confusion_chart

    with record.kept():
        run = record.run
        run.summary.update({f"test/{key}": value for key, value in summary["test"].items()})
        asked = summary["train"].get("in_evaluation") or {}
        run.summary.update({f"train/in_evaluation/{key}": value for key, value in asked.items()})
        figures = sorted((directory / "figures").glob("*.png"))
        content = {f"figures/{path.stem}": wandb.Image(str(path)) for path in figures}
        chart = confusion_chart(summary["confusion"], summary["data"]["classes"])
        run.log({"charts/confusion": chart, **content})
        checkpoint = directory / "checkpoints" / "last.ckpt"
        digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        facts = {"run": directory.name, "sha256": digest, "epochs": summary["epochs"]}
        facts["accuracy"] = summary["test"]["accuracy"]
        name = artifact_name("checkpoint", directory)
        _log_files(run, "checkpoint", name, directory, [checkpoint], facts, [_alias(digest)])


def record_evaluation(record: Record | None, summary: Mapping[str, Any], directory: Path) -> None:
    """Every evaluator's scores, tables and figures, example rows, and the files they come from.

    Args:
        summary: as in summary.json.
        directory: where rows, scores, tables, examples and figures have been written already.
    """
    if record is None or record.lost:
        return

    from saliency_lab.tracking.charts import example_table

    with record.kept():
        run = record.run
        source = _used_checkpoint(run, summary["checkpoint"])
        run.summary["accuracy"] = summary["accuracy"]["value"]
        content: dict[str, Any] = {}
        for label, found in summary["evaluators"].items():
            content |= _recorded_evaluator(run, directory, label, found)
        if (directory / EXAMPLES).is_file():
            classes = summary["data"]["classes"]
            content["examples"] = example_table(directory, summary, classes, _EXAMPLES)
        run.log(content)
        files = [path for path in sorted(directory.iterdir()) if path.suffix in _ROW_SUFFIXES]
        scores = (scores_path(directory, label) for label in summary["evaluators"])
        files += [path for path in scores if path.is_file()]
        facts = {"run": directory.name, "images": summary["data"]["images"], **source}
        _log_files(run, "rows", artifact_name("rows", directory), directory, files, facts)


def _recorded_evaluator(
    run: Any, directory: Path, label: str, found: Mapping[str, Any]
) -> dict[str, Any]:
    """Log the means and curves of one evaluator; its charts, tables and figures."""
    import wandb

    from saliency_lab.tracking.charts import line_charts

    maps = {(mean["method"], mean["view"]) for mean in found["means"]}
    for mean in found["means"]:
        # A run of one map leaves the view out: a sweep's runs then share a panel.
        view = "" if len(maps) == 1 else mean["view"]
        name = _series(*mean["condition"].values(), mean["score"], view)
        run.summary[f"{label}/{name}"] = mean["value"]
    content: dict[str, Any] = {f"{label}/means": wandb.Table(dataframe=_means_table(found))}
    curves_path = table_path(directory, label, "curves")
    # An evaluator of another kind may call a table so, too.
    if curves_path.is_file() and found["conditions"] == ["mode", "fill"]:
        curves = pd.read_csv(curves_path, keep_default_na=False, dtype={"method": str})
        names = zip(curves["method"], curves["view"], strict=True)
        curves["label"] = [label_of(method, view) for method, view in names]
        _log_curves(run, label, curves, len(maps) == 1)
        content |= line_charts(curves, f"{label}/")
        content[f"{label}/curves"] = wandb.Table(dataframe=curves)
    for path in sorted((directory / "figures").glob(f"{label}-*.png")):
        content[f"figures/{path.stem}"] = wandb.Image(str(path))
    return content


def _means_table(found: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(
        {**{k: v for k, v in mean.items() if k != "condition"}, **mean["condition"]}
        for mean in found["means"]
    )


def record_comparison(record: Record | None, summary: Mapping[str, Any], directory: Path) -> None:
    """How each pair of a comparison ended, in words and as a table, and the images' scores."""
    if record is None or record.lost:
        return
    import wandb

    with record.kept():
        run = record.run
        source = _used_checkpoint(run, summary["checkpoint"])
        pairs = summary["pairs"]
        run.summary["images"] = summary["drawn"]
        said = [*(str(pair["sentence"]) for pair in pairs), summary["caution"]]
        run.summary["verdict"] = "; ".join(filter(None, said))
        table = pd.DataFrame({**pair, "condition": str(pair["condition"])} for pair in pairs)
        run.log({"pairs": wandb.Table(dataframe=table)})
        files = sorted(directory.glob("*.parquet"))
        facts = {"run": directory.name, "images": summary["drawn"], **source}
        _log_files(run, "rows", artifact_name("rows", directory), directory, files, facts)


def record_report(record: Record | None, files: ReportFiles) -> str | None:
    """All methods of each classifier in one chart and one table, and the page itself.

    Returns:
        The address of the comparison view, where an account holds one.
    """
    if record is None or record.lost:
        return None
    import wandb

    from saliency_lab.tracking.charts import line_charts
    from saliency_lab.tracking.view import saved_view

    with record.kept():
        run = record.run
        evaluations = files.records.evaluations
        panels = build_panels(evaluations)
        content: dict[str, Any] = {"page": wandb.Html(str(files.page), inject=False)}
        for panel in panels:
            if hasattr(part_of(panel), "points_of"):
                labels = {one.key: one.label for one in panel.maps}
                points = part_of(panel).points_of(panel)
                curves = points.assign(label=points["key"].map(labels))
                content.update(line_charts(curves, f"{panel.slug}/", files.curves_over))
        if panels:
            content["scores"] = wandb.Table(dataframe=score_table(panels))
        for path in files.tables:
            if path.suffix == ".csv" and path.stem in _JUDGING:
                table = pd.read_csv(path, keep_default_na=False, dtype={"method": str})
                content[f"verdict/{path.stem}"] = wandb.Table(dataframe=table)
        run.log(content)
        paths = dict.fromkeys(evaluation.path for evaluation in evaluations)
        rows = [artifact_name("rows", path) for path in paths]
        for name in rows:
            _use(run, name, "latest", "rows")
        listed = [files.page, *files.figures, *files.tables]
        _log_files(run, "report", "report", files.page.parent, listed, {"rows": rows})
        if not run.offline:
            return saved_view(run, panels)
    return None


def artifact_name(kind: str, directory: Path) -> str:
    """The artifact of a run directory: the same for the same run, wherever `outputs` lies."""
    parts = directory.absolute().parts
    tasks = [place for place, part in enumerate(parts) if part in ("train", "evaluate", "compare")]
    own = parts[tasks[-1] + 1 :] if tasks else parts[-1:]
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join((kind, *own))).strip("-")
    if len(name) <= _ARTIFACT_NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name[: _ARTIFACT_NAME_LENGTH - len(digest) - 1]}-{digest}"


def _alias(digest: str) -> str:
    return f"sha256-{digest[:12]}"


def _used_checkpoint(run: Any, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Link the classifier's artifact as the run's input; what the record says of it by itself."""
    path = Path(checkpoint["path"])
    facts = {"checkpoint_sha256": checkpoint["sha256"]}
    if path.parent.name == "checkpoints":
        name, alias = artifact_name("checkpoint", path.parent.parent), _alias(checkpoint["sha256"])
        facts["checkpoint_artifact"] = f"{name}:{alias}"
        _use(run, name, alias, "checkpoint")
    run.summary.update(facts)
    return facts


def _use(run: Any, name: str, alias: str, kind: str) -> None:
    """Lineage on the server; offline, wandb refuses inputs, and the metadata names them."""
    import wandb

    if run.offline:
        return
    try:
        run.use_artifact(f"{name}:{alias}", type=kind)
    except (wandb.errors.CommError, ValueError):
        log.warning("W&B has no artifact %s:%s; sync the run that made it", name, alias)


def _log_files(
    run: Any,
    kind: str,
    name: str,
    directory: Path,
    files: Iterable[Path],
    facts: Mapping[str, Any],
    aliases: Sequence[str] = (),
) -> None:
    import wandb

    artifact = wandb.Artifact(name, type=kind, metadata=dict(facts))
    for path in files:
        # Without a copy: run directories replace files, they never write into them.
        place = path.relative_to(directory).as_posix()
        artifact.add_file(str(path), name=place, policy="immutable", skip_cache=True)
    run.log_artifact(artifact, aliases=["latest", *aliases])


def _series(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _log_curves(run: Any, label: str, curves: pd.DataFrame, alone: bool) -> None:
    points: dict[float, dict[str, float]] = {}
    for (view, mode, fill), curve in curves.groupby(["view", "mode", "fill"], sort=False):
        for score in _SCORES:
            # A run of one map leaves the view out: a sweep's runs then share a panel.
            place = "" if alone else str(view)
            name = _series("curves", label, str(mode), str(fill), score, place)
            # The area is what sums up a run, not the value at the last fraction.
            run.define_metric(name, step_metric=_AXIS, summary="none")
            for fraction, value in zip(curve[_AXIS], curve[score], strict=True):
                points.setdefault(float(fraction), {})[name] = float(value)
    for fraction in sorted(points):
        run.log({_AXIS: fraction, **points[fraction]})
