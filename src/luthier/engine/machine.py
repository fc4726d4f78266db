# SPDX-License-Identifier: Apache-2.0
"""The machine: what it is, and the most memory a run has used on it."""

from __future__ import annotations

import os
import platform
import resource
from importlib import metadata
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def reset_peak() -> None:
    """Start measuring peak memory anew (Linux and CUDA; elsewhere the peak is the process's whole life)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # 5: reset the resident high-water mark
    except OSError:
        return


def peak_memory_bytes() -> int:
    """GPU memory at its highest where there is a GPU, else the process's resident memory at its highest."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def hardware() -> dict[str, object]:
    """Processor, cores, threads, memory and GPU, for the record."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


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
