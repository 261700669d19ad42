"""`python -m benchmarks.forms FORM=OUTPUT_ROOT …`: the paper's six areas over epochs, per form.

Each output root holds trainings of one form of a network that differ in epochs and seeds, each
with an evaluation of `method=five_views`. Written are a table and a figure: a line for each form
and seed, thick for their mean, and the paper's value where `reproduce` knows it. A training whose
learning rate falls is a point of its own, a diamond.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.plain import PAPER_CURVES
from saliency_lab.reproductions.published import published
from saliency_lab.runs.directory import is_finished, read_summary

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


def main() -> None:
    """Write OUT.csv and OUT.png, print the means over seeds."""
    settings = _settings()
    found = []
    for form, _, root in (word.partition("=") for word in settings.forms):
        found += [row for path in summaries(Path(root)) for row in rows(form, path.parent)]
    table = pd.DataFrame(found).sort_values(["data", "schedule", "form", "seed", "epochs"])
    out = Path(settings.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(out.with_suffix(".csv"), index=False, float_format="%.4f", lineterminator="\n")
    drawn(table).savefig(out.with_suffix(".png"), dpi=settings.dpi)
    shown = table.assign(area_of=table["fill"] + ", " + table["view"]).pivot_table(
        index=["data", "schedule", "epochs", "form"],
        columns="area_of",
        values="area",
        aggfunc="mean",
    )
    print(shown.round(3).to_string())


def summaries(root: Path) -> list[Path]:
    """Of the finished evaluations below an output root."""
    paths = sorted(root.glob("evaluate/**/summary.json"))
    return [path for path in paths if is_finished(path.parent)]


def rows(form: str, run: Path) -> list[dict[str, Any]]:
    """A row for each of the six areas of an evaluation."""
    summary = read_summary(run)
    training = Path(summary["checkpoint"]["path"]).parent.parent
    config = yaml.safe_load((training / "config.yaml").read_text(encoding="utf-8"))
    whole = read_summary(training)
    of_all = {
        (mean["condition"]["fill"], mean["view"]): mean
        for mean in summary["evaluators"]["deletion"]["means"]
        if mean["score"] == "allegiance" and mean["condition"]["mode"] == "deletion"
    }
    return [
        {
            "data": summary["data"]["name"],
            "form": form,
            "seed": config["seed"],
            "epochs": config["trainer"]["max_epochs"],
            "schedule": config["scheduler"]["_target_"].rpartition(".")[2],
            "test_accuracy": whole["test"]["accuracy"],
            "images": mean["images"],
            "fill": fill,
            "view": view,
            "area": mean["value"],
            "low": mean["low"],
            "high": mean["high"],
        }
        for fill, view in PAPER_CURVES
        if (mean := of_all.get((fill, view))) is not None
    ]


def drawn(table: pd.DataFrame) -> Figure:
    """A row of panels for each data set, a panel for each area."""
    sets = sorted(table["data"].unique())
    figure = Figure(figsize=(13, 2.6 * len(sets) + 0.4), layout="constrained")
    forms = dict(zip(sorted(table["form"].unique()), _COLOURS, strict=False))
    grid = figure.subplots(len(sets), len(PAPER_CURVES), sharey="row", sharex="row", squeeze=False)
    for line, name in zip(grid, sets, strict=True):
        own = table[table["data"] == name]
        for axes, (fill, view) in zip(line, PAPER_CURVES, strict=True):
            _panel(axes, own[(own["fill"] == fill) & (own["view"] == view)], forms)
            _paper(axes, name, fill, view)
            axes.set_title(f"{fill}, {view}", fontsize=9)
            axes.set_ylim(bottom=0)
        line[0].set_ylabel(f"{name}\narea")
        line[0].set_xlabel("epochs")
    # The row with the most to tell apart names everything.
    named = max((line[0].get_legend_handles_labels() for line in grid), key=lambda one: len(one[1]))
    figure.legend(
        *named, loc="outside lower center", ncols=len(named[1]), frameon=False, fontsize=8
    )
    return figure


def _panel(axes: Axes, table: pd.DataFrame, colours: Mapping[str, str]) -> None:
    for place, (form, colour) in enumerate(colours.items()):
        whole = table[table["form"] == form]
        own = whole[whole["schedule"] == "constant"]
        for schedule, falling in whole[whole["schedule"] != "constant"].groupby("schedule"):
            beside = falling.assign(epochs=falling["epochs"] + 0.3 * place)  # not on one another
            _points(axes, beside, colour, marker="D", linestyle="none", label=f"{form}, {schedule}")
        seeds = own.groupby("seed")
        if len(seeds) > 1:
            for _, one in seeds:
                axes.plot(one["epochs"], one["area"], color=colour, linewidth=0.6, alpha=0.5)
            mean = own.groupby("epochs")["area"].mean()
            axes.plot(mean.index, mean, color=colour, linewidth=2, marker="o", label=form)
        else:
            _points(axes, own, colour, marker="o", linewidth=2, label=form)
    axes.locator_params(axis="x", integer=True)


def _points(axes: Axes, table: pd.DataFrame, colour: str, **drawn_as: Any) -> None:
    """Areas over epochs with their intervals."""
    low, high = table["area"] - table["low"], table["high"] - table["area"]
    axes.errorbar(
        table["epochs"], table["area"], yerr=[low, high], color=colour, elinewidth=0.8, **drawn_as
    )


def _paper(axes: Axes, data: str, fill: str, view: str) -> None:
    known = published(data, "resnet18", False)
    if known is not None:
        axes.axhline(known.areas[fill, view], color="#555555", linestyle="--", linewidth=1)


def _settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("forms", nargs="+", help="FORM=OUTPUT_ROOT")
    parser.add_argument("--out", default="outputs/forms", help="path without its ending")
    parser.add_argument("--dpi", type=int, default=110)
    return parser.parse_args()


if __name__ == "__main__":
    main()
