# SPDX-License-Identifier: Apache-2.0
"""Who is training into a run folder, how long the run is, and a file that asks it to stop: for those who watch.

    process.json    {"pid", "host", "started", "total_steps"}; after the run the same with a pid of null
    stop            an empty file; the run sees it after a step, saves, and stops

A number of a process is given again to another one later, so it counts only together with the instant at which that
process began. Asking by a file needs no number at all, and reaches one of several runs of a process.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "process.json"
STOP = "stop"


@contextmanager
def announced(folder: Path, total_steps: int) -> Iterator[None]:
    """Say inside that this process trains into `folder`. A request from before is withdrawn.

    What cannot be written is left out: a full disk has its own message, and nobody trains worse for not being watched.
    """
    told = {"host": socket.gethostname(), "total_steps": total_steps}
    (folder / STOP).unlink(missing_ok=True)
    _write(folder, {"pid": os.getpid(), "started": _started(os.getpid()), **told})
    try:
        yield
    finally:
        _write(folder, {"pid": None, "started": None, **told})
        with suppress(OSError):
            (folder / STOP).unlink(missing_ok=True)


def read_presence(folder: Path) -> dict[str, Any]:
    """What :func:`announced` wrote, with `running`: whether that very process is alive; empty where it wrote nothing.

    A process on another machine that shares the disk cannot be looked at; one that has not left counts as running.
    """
    try:
        told: dict[str, Any] = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    pid = told.get("pid")
    away = told.get("host") != socket.gethostname()
    return told | {"running": isinstance(pid, int) and (away or _started(pid) == told.get("started") != "")}


def ask_to_stop(folder: Path) -> None:
    """Ask the run that is training into `folder` to save and stop after its step.

    Raises:
        OSError: The folder cannot be written.
    """
    (folder / STOP).touch()


def _write(folder: Path, told: dict[str, Any]) -> None:
    writing = folder / f".writing-{NAME}"
    with suppress(OSError):
        writing.write_text(json.dumps(told) + "\n", encoding="utf-8")
        writing.replace(folder / NAME)


def _started(pid: int) -> str:
    """When a process began, as the system says it: the same words as long as it lives; "" where there is none."""
    try:
        # After the name in brackets (which may hold spaces) comes field 3; field 22 is the start in ticks since boot.
        ticks = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text(encoding='utf-8').strip()}:{ticks}"
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists() or os.name != "posix":
            return ""
    words = ["ps", "-o", "lstart=", "-p", str(pid)]  # macOS and the BSDs
    with suppress(OSError):
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    return ""
