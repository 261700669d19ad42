"""Where the configuration files lie: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path


def config_directory() -> Path:
    """The directory conf/ of this installation, absolute.

    The checkout's own comes first: an editable install may hold a stale copy inside the package.

    Raises:
        FileNotFoundError: neither place has one, so the installation is broken.
    """
    package = Path(__file__).resolve().parent.parent
    candidates = [package.parent / "conf", package / "conf"]
    for candidate in candidates:
        if (candidate / "method").is_dir():
            return candidate
    raise FileNotFoundError(f"no configuration files in {candidates[0]} or {candidates[1]}")
