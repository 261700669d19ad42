"""The command line: the word TASK, then plain Hydra."""

from __future__ import annotations


def main() -> None:
    """Entry point of `python -m saliency_lab` and of the console script."""
    # Imported here so that `import saliency_lab.cli` costs nothing.
    from saliency_lab.cli.command import run

    run()
