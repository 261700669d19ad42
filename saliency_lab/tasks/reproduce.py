"""A paper's experiment as one resumable sweep: `python -m saliency_lab reproduce paper=…`."""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from saliency_lab.config.identity import decides
from saliency_lab.config.location import config_directory
from saliency_lab.config.schema import RunConfig
from saliency_lab.errors import UserError, unknown_choice
from saliency_lab.report.drawing.terminal import print_table
from saliency_lab.reproductions.gad2024 import results as gad2024
from saliency_lab.reproductions.gad2024.grid import SOURCES, job_words
from saliency_lab.reproductions.llorente2023.results import (
    Column,
    Place,
    kind_of,
    write_reproduction,
)
from saliency_lab.reproductions.llorente2023.workload import WORKLOADS, Workload
from saliency_lab.runs.directory import held, is_finished, read_summary
from saliency_lab.runs.processes import process_count, started_by_launcher
from saliency_lab.tasks.plan import COLUMNS, Planned, plan_rows

log = logging.getLogger(__name__)

LLORENTE, GAD = PAPERS = ("llorente2023", "gad2024")

_HOW_LONG = " (time: trainings at the rate of a step on this machine; evaluations are often faster)"
# Of CIFAR-10's images, whose size is no setting.
_SIDE = 32

# What the paper did not ask. A thousand images settle an area to about ±0.01.
BEYOND = {
    "standard": (
        "evaluator.deletion.protocol=standard",
        "evaluator.deletion.modes=[deletion,insertion]",
        "evaluator.deletion.fills=[black,white,mean,blur,noise]",
        "data.limit=1000",
    ),
    "shifts": (
        "evaluator.deletion.fills=[shift+0.1,shift-0.1,shift+0.3,shift-0.3]",
        "data.limit=1000",
    ),
}


@dataclass(frozen=True)
class Job:
    """One command of the sweep and where it leaves its results."""

    column: str
    kind: str
    seed: int
    words: tuple[str, ...]

    def composed(self) -> DictConfig:
        """Its whole configuration."""
        loader = GlobalHydra.instance().config_loader()
        try:
            return loader.load_configuration(
                config_name=self.words[0], overrides=list(self.words[1:]), run_mode=RunMode.RUN
            )
        except (HydraException, OmegaConfBaseException) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UserError(f"Cannot compose `{self.command}`: {reason}") from error

    def place(self) -> Place | None:
        """Where its results lie; None as long as the classifier that it is about is not trained."""
        composed = self.composed()
        if "classifier" in composed and "error" in composed.classifier:
            return None
        labels = composed.labels if "labels" in composed else {}
        return Place(Path(composed.hydra.run.dir), next(iter(labels.values()), None))

    @property
    def finished(self) -> Place | None:
        """Where its finished results lie, or None."""
        place = self.place()
        if place is None or not is_finished(place.directory):
            return None
        known = read_summary(place.directory).get("evaluators", {})
        return place if place.label is None or place.label in known else None

    @property
    def command(self) -> str:
        """The command line that does the same by hand, but for where this machine keeps things."""
        words = [w for w in self.words if not w.startswith(("data.root=", "output_root="))]
        return shlex.join(("python", "-m", "saliency_lab", *words))


def run(config: Mapping[str, Any], directory: Path) -> None:
    """Run every job of the grid that is not finished, then compare with the paper.

    Raises:
        UserError: an unknown paper, column or split; several processes; or jobs failed, which
            are listed, while all others were run.
    """
    if started_by_launcher():
        raise UserError(
            "Expected `reproduce` to be started once, but a launcher has started "
            f"{process_count()} of it; its jobs start processes of their own: "
            '\'overrides=["trainer=ddp","trainer.devices=4"]\''
        )
    paper = config["paper"]
    if paper not in PAPERS:
        raise unknown_choice("paper", paper, PAPERS)
    if config["seed"] != RunConfig.seed:
        raise UserError(
            f"Expected the seeds of a reproduction in `seeds`, but got seed={config['seed']}; "
            f"give seeds=[{config['seed']}]"
        )
    columns = _columns(paper, config["columns"])
    _per_source(paper, config["sources"])
    for split in config["splits"]:
        if split not in ("test", "train"):
            raise unknown_choice("splits", split, ("test", "train"))
    with held(directory):
        jobs = list(_jobs(config, columns))
        # How long the rest takes is measured for what is run.
        loads = WORKLOADS if paper == LLORENTE and config["run"] else {}
        plan = list(_planned(jobs, loads))
        print_table(f"Plan: {paper}{_HOW_LONG}", COLUMNS, plan_rows(plan))
        known = zip(jobs, plan, strict=True)
        failed = [job for job, now in known if config["run"] and not _ran(job, now.there)]
        departures = tuple(config["overrides"]) + tuple(config["evaluation"])
        departures += tuple(config["sources"])
        place = Path(config["publish"]) if config["publish"] else directory
        written = _gad_written if paper == GAD else _llorente_written
        if not written(columns, jobs, departures, place) and not failed:
            raise UserError("Expected finished runs to compare, but found none; pass run=true")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(jobs)} jobs failed: " + "; ".join(j.command for j in failed)
        )


def _per_source(paper: str, given: Sequence[str]) -> dict[str, list[str]]:
    """Overrides by source, from `SOURCE:OVERRIDE`."""
    found: dict[str, list[str]] = {}
    for one in given:
        source, colon, word = one.partition(":")
        if paper != GAD or not colon:
            raise UserError(
                f"Expected `sources` to hold SOURCE:OVERRIDE, and none but with paper={GAD}, "
                f"but got '{one}'"
            )
        if source not in SOURCES:
            raise unknown_choice("sources", source, SOURCES)
        found.setdefault(source, []).append(word)
    return found


def _columns(paper: str, wanted: Sequence[str]) -> list[str]:
    folder = config_directory() / "experiment" / paper
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    for name in wanted:
        if name not in known:
            raise unknown_choice("columns", name, known)
    return list(wanted) or known


def _jobs(config: Mapping[str, Any], columns: Sequence[str]) -> Iterator[Job]:
    for column in columns:
        for seed in config["seeds"]:
            common = (
                f"experiment={config['paper']}/{column}",
                f"seed={seed}",
                *config["overrides"],
            )
            if config["root"] is not None:
                common += (f"data.root={config['root']}",)
            if config["output_root"] != "outputs":
                common += (f"output_root={config['output_root']}",)
            if config["paper"] == GAD:
                found = job_words(
                    common,
                    config["evaluation"],
                    figures=config["grids"],
                    sources=_per_source(GAD, config["sources"]),
                )
            else:
                found = _llorente_words(config, common)
            for kind, words in found:
                yield Job(column, kind, seed, words)


def _llorente_words(
    config: Mapping[str, Any], common: tuple[str, ...]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "train", ("train", *common)
    if config["grids"]:
        yield "grids", ("explain", *common, "method=five_views")
    evaluate = ("evaluate", *common, "method=five_views", *config["evaluation"])
    for split in config["splits"]:
        yield kind_of(split), (*evaluate, f"split={split}")
    if config["beyond"]:
        for kind, words in BEYOND.items():
            yield kind, (*evaluate, *words)


def _planned(jobs: Sequence[Job], loads: Mapping[str, Workload]) -> Iterator[Planned]:
    """What is there and how long it took; how long the rest takes, measured once per column.

    Of a column without a known load nothing is said but what another seed took.
    """
    rates: dict[str, Mapping[str, Any]] = {}
    for job in jobs:
        place = job.finished
        known = Planned(job.column, job.kind, job.seed, there=place is not None)
        if place is not None:
            yield replace(known, took=_seconds_of(place))
            continue
        if job.column in loads:
            if job.column not in rates:
                training = next(j for j in jobs if (j.column, j.kind) == (job.column, "train"))
                rates[job.column] = _measured(training)
            seconds = loads[job.column].seconds(job.kind, **rates[job.column])
            known = replace(known, estimate=seconds)
        yield known


def _seconds_of(place: Place) -> float | None:
    """How long a finished run took, from its summary; None where it does not say."""
    summary = read_summary(place.directory)
    found = summary.get("training_seconds", summary.get("seconds"))
    return None if found is None else float(found)


def _measured(training: Job) -> dict[str, Any]:
    """The rates of a column's network here, and the length of its training."""
    from saliency_lab.tasks.rates import measured_rates

    composed = training.composed()
    config: dict[str, Any] = {
        group: OmegaConf.to_container(composed[group], resolve=True)
        for group in ("data", "model", "optimizer", "trainer")
    }
    side = int(config["data"].get("size") or _SIDE)
    rates = measured_rates(config, len(config["data"]["classes"] or range(10)), (3, side, side))
    return {
        "step": rates.step,
        "forward": rates.forward,
        "epochs": int(config["trainer"]["max_epochs"]),
        "limit": config["data"]["limit"],
    }


def _ran(job: Job, there: bool) -> bool:
    """Run a job in a process of its own, so that none can harm the next; True if it finished."""
    if there or job.finished:
        log.info("already finished: %s", job.command)
        return True
    log.info("running: %s", job.command)
    done = subprocess.run([sys.executable, "-m", "saliency_lab", *job.words], check=False)
    if done.returncode != 0:
        log.error("exit code %d: %s", done.returncode, job.command)
    return done.returncode == 0


def _llorente_written(
    columns: Sequence[str], jobs: Sequence[Job], departures: Sequence[str], place: Path
) -> bool:
    results = [column for name in columns if (column := _column(name, jobs, departures)).runs]
    if not results:
        return False
    page = write_reproduction(results, place)
    rows: list[list[object]] = []
    for column in results:
        rows += [[column.name, *cells] for cells in column.comparison("test")]
    print_table(
        "The paper and this run, test images",
        ["column", "quantity", "paper", "ours", "95 %", "difference"],
        rows,
        wrote=page,
    )
    return True


def _column(name: str, jobs: Sequence[Job], departures: Sequence[str]) -> Column:
    mine = [job for job in jobs if job.column == name]
    runs = {(job.kind, job.seed): place for job in mine if (place := job.finished)}
    commands = tuple(job.command for job in mine)
    return Column(name, runs, commands, tuple(word for word in departures if decides(word)))


def _gad_written(
    columns: Sequence[str], jobs: Sequence[Job], departures: Sequence[str], place: Path
) -> bool:
    results = []
    for name in columns:
        mine = [job for job in jobs if job.column == name]
        # The tables are of one training; the first seed that was asked for.
        mine = [job for job in mine if job.seed == mine[0].seed]
        runs = {job.kind: at.directory for job in mine if (at := job.finished)}
        changed = tuple(word for word in departures if decides(word))
        column = gad2024.Column(name, runs, tuple(job.command for job in mine), changed)
        if column.measured:
            results.append(column)
    if not results:
        return False
    page = gad2024.write_reproduction(results, place)
    rows = [row for column in results for row in gad2024.table_rows(column)]
    print_table("GAD and its controls, test images", gad2024.TABLE, rows, wrote=page)
    return True
