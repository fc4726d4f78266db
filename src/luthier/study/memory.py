# SPDX-License-Identifier: Apache-2.0
"""Memory between the runs of one process: given back, so that each run's peak is its own."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

_STATUS = Path("/proc/self/status")


def release() -> None:
    """Free what the last run left: Python's cycles, the C library's free pages, the GPU's cache."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # without it glibc keeps freed pages, and the next peak counts them
    except (OSError, AttributeError):
        return  # another C library; peaks then hold what earlier runs kept


def resident_bytes() -> int:
    """Memory that is held now: GPU memory where there is a GPU, else resident memory (0 where it cannot be told)."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.memory_allocated())
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0
