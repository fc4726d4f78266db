# SPDX-License-Identifier: Apache-2.0
"""The machine: what it is, and the most memory a run has used on it."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from luthier.kernels import native
from luthier.kernels.native import arena

if TYPE_CHECKING:
    from collections.abc import Iterator

_STATUS = Path("/proc/self/status")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h


class _Watch:
    """The phase that goes on now, and the peaks so far: of the process, so one for all its runs."""

    phase = "step"
    peaks: ClassVar[dict[str, dict[str, int]]] = {}


def reset_peak() -> None:
    """Start measuring peak memory anew (Linux and CUDA; elsewhere the peak is the process's whole life).

    What an earlier run in this process left is freed first: without the trim glibc keeps freed pages resident, and
    they would count for this run. What loading took stays known.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    arena.release()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    _rewind()
    _Watch.peaks = {name: peak for name, peak in _Watch.peaks.items() if name == "load"}


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Inside, peaks are those of a phase: `load`, `evaluation`, `save`; what is in none is `step`."""
    _note()
    _rewind()
    outer, _Watch.phase = _Watch.phase, name
    try:
        yield
    finally:
        _note()
        _rewind()
        _Watch.phase = outer


def phases() -> dict[str, dict[str, int]]:
    """The peak of each phase since :func:`reset_peak`, in bytes; of a GPU also what its allocator held."""
    _note()
    return {name: dict(peak) for name, peak in _Watch.peaks.items()}


def resident_bytes() -> int:
    """GPU memory in use where there is a GPU, else the process's resident memory; 0 where that cannot be told."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else _status("VmRSS") or 0


def _note() -> None:
    found = {"peak_bytes": _high_water()}
    if torch.cuda.is_available():
        found["reserved_bytes"] = torch.cuda.max_memory_reserved()
    known = _Watch.peaks.get(_Watch.phase, {})
    _Watch.peaks[_Watch.phase] = {name: max(value, known.get(name, 0)) for name, value in found.items()}


def _rewind() -> None:
    """The high-water mark falls to what is there now."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # no /proc
        Path("/proc/self/clear_refs").write_text("5")  # 5: the resident high-water mark


@contextmanager
def kept_pages() -> Iterator[None]:
    """Inside, freed memory stays with the process, and tensors on the processor stand close together.

    A step frees and takes the same megabytes hundreds of times; given back to the system they come back as page
    faults with cold caches, 3 to 7 % of a step of the CPU benchmark. Tensors stand in the arena where there is one
    (`kernels/native/arena.py`); what is smaller, and what libraries take, is glibc's: elsewhere nothing is set.
    Afterwards what is free goes back.
    """
    with ExitStack() as stack:
        if not torch.cuda.is_available():
            stack.enter_context(arena.entered())
        with suppress(OSError, AttributeError):  # another C library
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(_MMAP_THRESHOLD, 32 << 20)  # the most that glibc takes; larger blocks are mapped as before
            libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
            stack.callback(libc.malloc_trim, 0)
            stack.callback(libc.mallopt, _TRIM_THRESHOLD, 64 << 20)  # where glibc's own adaptation ends up
        yield


def peak_memory_bytes() -> int:
    """GPU memory at its highest where there is a GPU, else the process's resident memory at its highest.

    Since :func:`reset_peak`; loading is left out.
    """
    return max((peak["peak_bytes"] for name, peak in phases().items() if name != "load"), default=0)


def _high_water() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if (known := _status("VmHWM")) is not None:
        return known
    if os.name != "posix":
        return 0
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _status(name: str) -> int | None:
    """Bytes, by a name of /proc/self/status."""
    if not _STATUS.exists():
        return None
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


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
        "arena": arena.describe(),
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
