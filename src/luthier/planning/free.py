# SPDX-License-Identifier: Apache-2.0
"""Memory that a run can still take, as the system tells it."""

from __future__ import annotations

from pathlib import Path

import torch


def free_bytes(device: torch.device) -> int | None:
    """Memory that a run can still take; None where the system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + reserved)  # torch's own cache is free for it
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) * 1024, _group_limit())
    except OSError:
        pass
    return None


def _group_limit() -> int:
    """What the control group (a container) still allows; very much where there is none."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        files = [
            line.split()[1] for line in (group / "memory.stat").read_text().splitlines() if line.startswith("file ")
        ]
        return int(limit) - used + int(files[0]) if limit != "max" else 1 << 62  # cached files give way
    except (OSError, ValueError, IndexError):
        return 1 << 62


def size(count: float) -> str:
    """Bytes in words.

    Example:
        >>> size(24 << 30), size(5 << 20)
        ('24.0 GiB', '5.0 MiB')
    """
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
