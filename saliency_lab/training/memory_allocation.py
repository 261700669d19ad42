"""How the C library deals with the memory that tensors leave behind."""

from __future__ import annotations

import ctypes
import os
import sys

# mallopt's numbers in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# The largest that glibc takes: tensors below it come from memory that the process keeps.
_LARGEST_MMAP_THRESHOLD = 1 << 25
_NEVER = 2**31 - 1
_CHOSEN_OUTSIDE = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Keep freed memory for the next tensors instead of handing it back to the system.

    Each training step on the CPU frees large tensors and asks for the same ones again. Handed
    back in between, their pages are zeroed by the system every time, which took a seventh of a
    step of `basic_cnn` where it was measured.

    Returns:
        Whether it has an effect: glibc alone knows these settings, and what a person has set in
        the environment stands.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _CHOSEN_OUTSIDE):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    return bool(kept and mallopt(_TRIM_THRESHOLD, _NEVER))
