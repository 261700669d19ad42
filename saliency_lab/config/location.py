"""Where the yamls lie: in the checkout, or in the installed wheel."""

from __future__ import annotations

from pathlib import Path


def conf_directory() -> Path:
    """The directory of the product's own configuration.

    The checkout comes first: an editable install also holds a copy in the wheel's place, which
    goes stale as soon as a yaml is edited.
    """
    package = Path(__file__).resolve().parent.parent
    checkout = package.parent / "conf"
    if (checkout / "train.yaml").is_file() and (package.parent / "pyproject.toml").is_file():
        return checkout
    return package / "conf"
