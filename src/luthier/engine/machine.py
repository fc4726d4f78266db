# SPDX-License-Identifier: Apache-2.0
"""The machine: what it is, and the most memory a run has used on it."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from luthier.kernels import native

if TYPE_CHECKING:
    from collections.abc import Iterator

_STATUS = Path("/proc/self/status")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h


def reset_peak() -> None:
    """Start measuring peak memory anew (Linux and CUDA; elsewhere the peak is the process's whole life).

    What an earlier run in this process left is freed first: without the trim glibc keeps freed pages resident, and
    they would count for this run.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # 5: reset the resident high-water mark
    except (OSError, AttributeError):  # another C library, or no /proc
        return


@contextmanager
def kept_pages() -> Iterator[None]:
    """Inside, freed memory stays with the process: glibc only, nothing elsewhere.

    A step frees and takes the same megabytes hundreds of times; given back to the system they come back as page
    faults with cold caches, 3 to 7 % of a step of the CPU benchmark. The peak does not change. Afterwards what is free
    goes back.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_MMAP_THRESHOLD, 32 << 20)  # the most that glibc takes; larger blocks are mapped as before
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):
        yield
        return
    try:
        yield
    finally:
        libc.mallopt(_TRIM_THRESHOLD, 64 << 20)  # where glibc's own adaptation ends up
        libc.malloc_trim(0)


def peak_memory_bytes() -> int:
    """GPU memory at its highest where there is a GPU, else the process's resident memory at its highest."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if os.name != "posix":
        return 0
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def made_with(data: str) -> dict[str, object]:
    """What a run's last bits depend on besides its recipe; a checkpoint keeps it.

    Args:
        data: Digest of the training rows.
    """
    known = versions()
    return {
        "data": data,
        "torch": known["torch"],
        "transformers": known["transformers"],
        "luthier": known["luthier"],
        "processor": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "threads": torch.get_num_threads(),
        "native": native.describe(),
    }


def hardware() -> dict[str, object]:
    """Processor, cores, threads, memory and GPU, for the record."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "native": native.describe(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def where(device: torch.device, threads: int) -> str:
    """In a line: what a run computes on, and whether the C++ loops are there."""
    if device.type != "cpu":
        return str(device)
    return f"{threads} thread{'s' * (threads > 1)}; C++ loops: {native.describe()}"


def versions() -> dict[str, str]:
    """Python and the packages that numbers depend on."""
    names = ("luthier", "torch", "transformers", "tokenizers", "numpy")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
