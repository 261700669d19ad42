"""The task words and what `--help` says of them. Imports nothing heavy."""

from __future__ import annotations

from saliency_lab.errors import UserError, unknown_choice

PROGRAM = "python -m saliency_lab"
TASKS = {
    "train": ("train a classifier", "train model=resnet18 data=imagenette"),
    "evaluate": (
        "measure how faithful saliency maps are",
        "evaluate -m method=original,positive,active data=cifar10",
    ),
    "explain": (
        "draw maps of test images or of your own files",
        "explain images=[cat.jpg,dog.png]",
    ),
    "compare": (
        "decide which of two maps is better, stopping as soon as the answer is clear",
        "compare a=active b=original data=cifar10",
    ),
    "report": ("gather all runs on one HTML page, with tables and figures", "report"),
    "runs": ("list, show, compare and remove runs", "runs task=evaluate model=resnet18"),
    "reproduce": ("rerun a paper's experiment as one resumable sweep", "reproduce"),
}


def overview() -> str:
    """The text of `--help` without a task: each task with an example."""
    lines = [f"usage: {PROGRAM} TASK [overrides]", "", "tasks:"]
    for task, (what, example) in TASKS.items():
        lines += [f"  {task:<10} {what}", f"             {PROGRAM} {example}"]
    lines += [
        "",
        "Arguments after TASK are Hydra's: key=value, group=choice, -m (sweep), --cfg job,",
        "--help (groups and keys of that task), --info, --config-dir DIR (your own yamls).",
    ]
    return "\n".join(lines)


def task_of(arguments: list[str]) -> tuple[str, list[str]]:
    """The task word and what is left of the command line.

    Raises:
        UserError: there is no task word, or it is none of the tasks.
    """
    word = arguments[0]
    if word.startswith("-") or "=" in word:
        raise UserError(
            f"Expected a TASK first ({', '.join(TASKS)}), but got '{word}'; "
            f"for example: {PROGRAM} train {word}"
        )
    if word not in TASKS:
        raise unknown_choice("TASK", word, TASKS)
    return word, arguments[1:]
