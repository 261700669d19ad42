"""List, show, compare and remove run directories: `python -m saliency_lab runs`.

Not configured by Hydra: it makes no run of its own, and lists hundreds of runs in a second.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from saliency_lab.errors import UserError, unknown_choice, unknown_key
from saliency_lab.report.drawing.terminal import print_table
from saliency_lab.report.reading.inventory import (
    STATES,
    Run,
    differing,
    found_runs,
    matching,
    named_runs,
    scores_of,
)
from saliency_lab.runs.directory import ERROR, remove

FILTERS = ("task", "data", "model", "method", "seed", "state")
_CACHES = ("remove_caches", "cache_dir")
KEYS = (*FILTERS, "show", "compare", "remove", "yes", "output_root", *_CACHES)
HELP = """usage: python -m saliency_lab runs [key=value ...]

  runs                                   every run below outputs/, as a table
  runs task=evaluate model=resnet18      those that fit: task, data, model, method, seed, state;
                                         a pattern (method=smooth*) or several (seed=0,1)
  runs show=RUN                          what one is: state, command, scores, files
  runs compare=[RUN,RUN]                 the keys in which two configurations differ
  runs remove=RUN                        delete one, or several, or all that a pattern means, after
                                         a question; yes=true asks nothing
  runs remove_caches=30d                 remove caches of decoded images that were not opened for 30
                                         days; =20GB: the longest unused ones until the rest has
                                         20 GB; =all: all. None that a process uses is removed
  output_root=DIR, cache_dir=DIR         look there instead

RUN is a folder, the name that the table shows, or a pattern of names: 'evaluate/cifar10/*'."""


@dataclass
class Request:
    """What the words of a command line ask for."""

    output_root: Path = Path("outputs")
    filters: dict[str, list[str]] = field(default_factory=dict)
    show: list[str] = field(default_factory=list)
    compare: list[str] = field(default_factory=list)
    remove: list[str] = field(default_factory=list)
    yes: bool = False
    remove_caches: str | None = None
    cache_dir: Path | None = None


def run(words: Sequence[str]) -> None:
    """Do what the words after `runs` ask for.

    Raises:
        UserError: an unknown key or value, no such run, or one that is running or not confirmed.
    """
    if set(words) & {"-h", "--help"}:
        print(HELP)
        return
    asked = request_of(words)
    if asked.remove_caches is not None:
        _remove_caches(asked.cache_dir, asked.remove_caches)
        return
    runs = found_runs(asked.output_root)
    fitting = matching(runs, asked.filters)
    if asked.show:
        for one in named_runs(fitting, asked.show, asked.output_root):
            _show(one, runs)
    elif asked.compare:
        _compare(named_runs(fitting, asked.compare, asked.output_root))
    elif asked.remove:
        _remove(named_runs(fitting, asked.remove, asked.output_root), runs, asked)
    else:
        _list(fitting, len(runs), asked.output_root)


def request_of(words: Sequence[str]) -> Request:
    """The words as a request.

    Raises:
        UserError: a word that is no key=value, an unknown key, or a value that cannot be.
    """
    asked = Request()
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"Expected key=value after `runs`, but got '{word}' (see --help)")
        if key not in KEYS:
            raise unknown_key(key, KEYS)
        if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
            text = text[1:-1]  # quotes that Hydra's grammar wants after the other tasks' words
        values = _values(key, text)
        if key in FILTERS:
            asked.filters[key] = values
        elif key == "output_root":
            asked.output_root = Path(text)
        elif key == "cache_dir":
            asked.cache_dir = Path(text).expanduser()
        elif key == "remove_caches":
            asked.remove_caches = text
        elif key == "yes":
            if text not in ("true", "false"):
                raise UserError(f"Expected `yes` to be true or false, but got '{text}'")
            asked.yes = text == "true"
        else:
            setattr(asked, key, values)
    wanted = [key for key in ("show", "compare", "remove") if getattr(asked, key)]
    if len(wanted) > 1:
        raise UserError(f"Expected one of show, compare and remove, but got {' and '.join(wanted)}")
    for state in asked.filters.get("state", []):
        if state not in STATES:
            raise unknown_choice("state", state, STATES)
    return asked


def _values(key: str, text: str) -> list[str]:
    """`a,b`, `[a,b]` and `a` as a list; a file name may hold nearly anything but a comma."""
    bare = text.removeprefix("[").removesuffix("]") if text.startswith("[") else text
    values = [part.strip().strip("'\"") for part in bare.split(",") if part.strip()]
    if not values:
        raise UserError(f"Expected `{key}` to have a value, but got '{text}'")
    return values


def _list(runs: Sequence[Run], count: int, root: Path) -> None:
    # The name last: it is as long as all others together.
    columns = ["task", "data", "model", "method", "seed", "state", "score", "age", "size", "run"]
    rows = [
        [
            *(run.task, run.data, run.model, run.method),
            *(run.seed, run.state, run.score, age_text(time.time() - run.changed)),
            *(size_text(run.size), run.name),
        ]
        for run in runs
    ]
    shown = f"{len(runs)} of {count}" if len(runs) < count else str(count)
    title = f"{shown} run{'s' if count != 1 else ''} below '{root}'"
    if not runs:
        print(title)
        return
    print_table(f"{title}, {size_text(sum(run.size for run in runs))}", columns, rows)


def _show(run: Run, runs: Sequence[Run]) -> None:
    about = run.environment
    versions = about.get("versions") or {}
    facts: Mapping[str, Any] = {
        "task": run.task,
        "data": run.data,
        "model": run.model,
        "method": run.method,
        "seed": run.seed,
        "state": run.state,
        "reason": _reason(run),
        "score": run.score,
        "started": about.get("started"),
        "command": about.get("command"),
        "machine": about.get("host"),
        "commit": about.get("commit"),
        "versions": ", ".join(f"{n} {versions[n]}" for n in ("saliency-lab", "torch", "timm")
                              if versions.get(n)),
        "classifier": run.trained_by,
        "used by": ", ".join(other.name for other in _users([run], runs)),
        "size": size_text(run.size),
        "folder": run.path,
    }  # fmt: skip
    width = max(map(len, facts))
    print(run.name)
    for name, value in facts.items():
        if value not in (None, ""):
            print(f"  {name:<{width}}  {value}")
    if run.state in ("failed", "unfinished"):
        refused = facts["reason"].startswith(UserError.__name__)
        first = "mend what the reason names, then " if refused else ""
        print(f"  {first}rerun the same command to resume it")
    for label, means in scores_of(run.summary).items() if run.state == "finished" else ():
        rows = [
            [f"{mean['method']}/{mean['view']}", " ".join(mean["condition"].values()),
             mean["value"], f"[{mean['low']:.4f}, {mean['high']:.4f}]", mean["images"]]
            for mean in means
        ]  # fmt: skip
        name = means[0]["score"] if means else ""
        print_table(f"{label}: {name}", ["map", "condition", name, "95 %", "images"], rows)


def _compare(runs: Sequence[Run]) -> None:
    if len(runs) != 2:
        raise UserError(f"Expected `compare` to name two runs, but it names {len(runs)}")
    one, other = runs
    rows = [[key, _value(a), _value(b)] for key, a, b in differing(one, other)]
    print(f"a: {one.name}\nb: {other.name}")
    if rows:
        print_table(f"{len(rows)} keys differ", ["key", "a", "b"], rows)
    else:
        print("the configurations are the same")


def _remove(chosen: Sequence[Run], runs: Sequence[Run], asked: Request) -> None:
    for run in chosen:
        if run.state == "running":
            raise UserError(f"'{run.name}' is running; stop it first")
    size = size_text(sum(run.size for run in chosen))
    for run in chosen:
        print(f"  {run.name}  {size_text(run.size)}")
    users = [run for run in _users(chosen, runs) if run not in chosen]
    if users:
        told = "1 other run" if len(users) == 1 else f"{len(users)} other runs"
        print(f"{told} used these classifiers; kept, but cannot be resumed")
    count = f"{len(chosen)} run{'s' if len(chosen) != 1 else ''}"
    if not asked.yes and not _confirmed(f"Remove {count}, {size}? [y/N] "):
        print("nothing was removed")
        return
    for run in chosen:
        remove(run.path, asked.output_root.absolute())
    print(f"removed {count}, {size}")


def _remove_caches(cache_dir: Path | None, which: str) -> None:
    """Caches are made again when they are needed, so nothing is asked."""
    # Not for a list of runs, which is there in a moment.
    from saliency_lab.data.cache import default_cache_dir
    from saliency_lab.data.old_caches import (
        found_caches,
        keep_below,
        megabytes,
        remove_unused,
        size_of,
    )

    cache_dir = cache_dir or default_cache_dir()
    size = size_of(which)
    days = re.fullmatch(r"(\d+) ?d", which)
    if size is not None:
        gone = keep_below(cache_dir, size)
    elif days is not None or which == "all":
        gone = remove_unused(cache_dir, 86400.0 * int(days[1]) if days else 0.0)
    else:
        raise UserError(
            f"Expected `remove_caches` to be days (30d), a size (20GB) or all, but got '{which}'"
        )
    left = found_caches(cache_dir)
    print(
        f"removed {len(gone)} of {len(gone) + len(left)} image caches in '{cache_dir}', "
        f"{megabytes(gone):,.1f} MB; {megabytes(left):,.1f} MB are left"
    )


def _confirmed(question: str) -> bool:
    print(question, end="", flush=True)
    answer = sys.stdin.readline()
    if not answer:
        print()
        raise UserError(
            "Expected an answer, but standard input is closed; pass yes=true to remove without "
            "asking"
        )
    return answer.strip().lower() in ("y", "yes")


def _users(chosen: Sequence[Run], runs: Sequence[Run]) -> list[Run]:
    homes = {run.path for run in chosen}
    return [run for run in runs if run.trained_by in homes]


def _reason(run: Run) -> str:
    if run.state != "failed":
        return ""
    lines = (run.path / ERROR).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "none was recorded"


def _value(value: object) -> str:
    if value is ...:
        return "–"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def age_text(seconds: float) -> str:
    """ "3 min", "5 h", "12 d": how long ago, in one unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def size_text(count: int) -> str:
    """Bytes as "812 B", "3.4 MB": decimal units, as `ls` and disks' makers use them."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
