# SPDX-License-Identifier: Apache-2.0
"""Several ranks of one run as forks of the test's process: real processes and real gloo, without seconds of imports."""

from __future__ import annotations

import multiprocessing
import os
import socket
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.engine.distributed import Ranks, joined

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

LIMIT = 60  # seconds


@dataclass(frozen=True)
class Raised:
    """What ended a rank: kind and message."""

    kind: str
    message: str


def on_ranks(world: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """What `work` returns on each rank, or what it raises there; None where the process died."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes, ends = [], []
    for rank in range(world):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_rank, args=(rank, world, port, work, there))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's idle threads make the process multi-threaded
            process.start()
        there.close()
        processes.append(process)
        ends.append(here)
    found = []
    for end in ends:
        try:
            found.append(end.recv() if end.poll(LIMIT) else Raised("Timeout", f"no answer in {LIMIT} s"))
        except EOFError:
            found.append(None)
    for process in processes:
        process.join(5)
        process.kill()
    return found


def _rank(rank: int, world: int, port: int, work: Callable[[Ranks], Any], end: Connection) -> None:
    place = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        with joined() as ranks:
            end.send(work(ranks))
    except Exception as error:
        end.send(Raised(type(error).__name__, str(error)))
