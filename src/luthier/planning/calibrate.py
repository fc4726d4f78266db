# SPDX-License-Identifier: Apache-2.0
"""This machine's speed: products a second in the run's numbers, and bytes a second; measured once, and kept.

What is kept stands in `LUTHIER_HOME/machine.json`, by processor, threads and version of torch.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import torch

from luthier.core.home import home
from luthier.engine.machine import made_with
from luthier.models.threads import bound_caches
from luthier.planning.free import free_bytes
from luthier.planning.machines import Machine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIDE = {"cpu": 1024, "cuda": 8192}  # of the square matrices that are multiplied
COPIED = {"cpu": 64 << 20, "cuda": 1 << 30}  # bytes: more than any cache holds
_REACHED = 0.6  # of the speed of one large product, by a training pass over layers that were not timed: assumed


def here(device: torch.device, free: int | None = None) -> Machine:
    """This machine, calibrated; a fraction of a second the first time, then from the cache.

    Args:
        device: Where runs compute.
        free: Bytes that a run may take; by default what is free now.
    """
    found = free_bytes(device) if free is None else free
    about = made_with("")
    name, threads = str(about["processor"]), torch.get_num_threads()
    told = _kept(f"{name}; {device.type}; threads {threads}; torch {about['torch']}", lambda: measure(device))
    return Machine(
        name=name,
        device=device.type,
        memory=found if found is not None else 1 << 62,
        flops={"float32": told["float32"], "bfloat16": told["bfloat16"]},
        bandwidth=told["bandwidth"],
        utilisation=_REACHED,
        told=f"measured here, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else "measured here",
    )


def measure(device: torch.device) -> dict[str, float]:
    """Operations a second in float32 and bfloat16, and bytes a second of a copy (read and written)."""
    bound_caches()
    side, found = SIDE[device.type], {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a = torch.randn(side, side, device=device).to(dtype)
        b = torch.randn(side, side, device=device).to(dtype)
        found[name] = 2.0 * side**3 / best_of(lambda a=a, b=b: a @ b, device)  # type: ignore[misc]
    source = torch.zeros(COPIED[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found["bandwidth"] = 2.0 * source.numel() / best_of(lambda: target.copy_(source), device)
    return found


def best_of(work: Callable[[], Any], device: torch.device, *, repeats: int = 3, enough: float = 1.0) -> float:
    """Seconds of the quickest of several tries, after one that does not count.

    On a processor its own time over the threads counts, so other processes disturb little.

    Args:
        work: What is timed.
        device: Where it computes.
        repeats: Tries, at most.
        enough: Seconds of one try from which on it stays the only one, and the one before counts as well.
    """
    found: list[float] = []
    for _ in range(repeats + 1):
        found.append(timed(work, device))
        if found[-1] >= enough:
            break
    return max(min(found[1:] or found), 1e-9)


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one try: of the processor's time over the threads, or of a GPU's clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        return time.perf_counter() - began
    began = time.process_time()
    work()
    return (time.process_time() - began) / torch.get_num_threads()


def _kept(key: str, make: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What was measured under a key before, or now; a cache that cannot be read or written costs time alone."""
    file = home() / "machine.json"
    known = _read(file)
    if key not in known:
        known = _read(file) | {key: make()}
        _write(file, known)
    return known[key]


def _read(file: Path) -> dict[str, dict[str, float]]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(file: Path, known: dict[str, dict[str, float]]) -> None:
    writing = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        writing.write_text(json.dumps(known, indent=1), encoding="utf-8")
        writing.replace(file)
    except OSError:
        return
