"""What the C library does with memory that is freed."""

from __future__ import annotations

import ctypes
import sys

# glibc's names for: how many free bytes go back to the system, and from how many on each block does
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Let glibc keep what is freed from now on, where it is the C library.

    Every step of a training asks for the same large blocks as the last; given back in between, each
    page of them must be cleared by the system again, about a tenth of a step (benchmarks/heap.py).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(MMAP_THRESHOLD, 2**30)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
