"""Where downloaded data sets go, and what to say when they cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from saliency_lab.data.cache import default_cache_dir
from saliency_lab.errors import UserError
from saliency_lab.runs.files import writing_error


def download_root() -> Path:
    """The folder for downloads where `data.root` is not given."""
    return default_cache_dir() / "downloads"


@contextmanager
def single_download(root: Path, wanted: str) -> Iterator[None]:
    """A block that downloads into `root`, one process at a time.

    Args:
        root: the folder; made if missing.
        wanted: what a user without a network should put there.

    Raises:
        UserError: the network, the checksum, the disk or the folder fails.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock"):
            yield
    # URLError and timeouts are OSErrors; torchvision reports a bad checksum as RuntimeError.
    except (OSError, RuntimeError) as error:
        raised = writing_error(root / "download", error)
        if isinstance(raised, UserError):
            raise raised from error
        reason = " ".join(str(error).split())
        raise UserError(
            f"The download into {root} failed ({reason}): set data.root to a folder that holds "
            f"{wanted}."
        ) from error
