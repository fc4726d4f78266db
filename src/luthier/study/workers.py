# SPDX-License-Identifier: Apache-2.0
"""Several runs of a study at a time, each worker a process of its own (`worker`).

A worker does a run, or a group of runs that share a base. One that dies costs the run it was doing and no other: what
was left of a group is done again, each run alone. Ctrl-C reaches the workers through here only, once, so
that each saves its run before it stops.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from luthier.core.errors import Interrupted
from luthier.engine.signals import StopRequest
from luthier.study.results import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from luthier.study.design import Planned
    from luthier.study.together import Group

_LOOK = 0.2  # seconds between looks at Ctrl-C


def places(wanted: int, runs: int) -> int:
    """How many runs can go on at a time here: one on a GPU (and on Windows), else at most one for each core.

    Args:
        wanted: The study's `jobs`.
        runs: How many runs there are.
    """
    import torch

    if torch.cuda.is_available() or os.name != "posix":
        return 1
    return max(1, min(wanted, runs, _cores()))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """One process and the runs it is doing."""

    def __init__(self, lock: int | None = None) -> None:
        self.reports, theirs = Pipe(duplex=False)
        words = [sys.executable, "-m", "luthier.study.worker", str(theirs.fileno())]
        # A session of its own: a terminal's Ctrl-C would reach it beside ours, and two mean "stop at once".
        kept = [theirs.fileno(), *([] if lock is None else [lock])]
        self.process = subprocess.Popen(  # noqa: S603 - our own module
            words, stdin=subprocess.PIPE, pass_fds=kept, start_new_session=True
        )
        theirs.close()
        self.doing: list[Planned] = []

    def give(self, work: Any, group: Group, threads: int) -> None:
        assert self.process.stdin is not None
        self.doing = list(group)
        with suppress(BrokenPipeError):  # it died before it began: its end of file says so
            pickle.dump((work, group, threads), self.process.stdin)
            self.process.stdin.flush()

    def report(self) -> tuple[str, Any]:
        """What it says next; waits for it."""
        try:
            found: tuple[str, Any] = self.reports.recv()
        except (EOFError, OSError):
            return "died", self.process.wait()
        return found

    def end(self, *, now: bool = False) -> None:
        if now:
            self.process.kill()
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()
        self.process.wait()
        self.reports.close()


@dataclass(kw_only=True)
class Workers:
    """The processes of a study; made before they are needed, for each takes seconds to import PyTorch.

    Attributes:
        count: How many.
        work: What each run needs to know besides its plan; picklable.
        say: Receives the runs' lines.
        lock: The study's lock, which each worker holds too: it is free when the last of them is gone.
    """

    count: int
    work: Any
    say: Callable[[str], None]
    lock: int | None = None

    def __post_init__(self) -> None:
        self._workers = [_Worker(self.lock) for _ in range(self.count)]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for worker in self._workers:
            worker.end(now=kind is not None)

    def do(self, groups: Sequence[Group], told: Callable[[Planned, Run | None], None]) -> None:
        """Do every run.

        Args:
            groups: Runs that share a base, or one; in the order in which they are begun.
            told: Called with None when a run begins and with its result when it ends.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the runs under way were saved.
        """
        waiting = list(groups)
        with StopRequest() as stop:
            for worker in self._workers:
                self._next(worker, waiting, told)
            passed_on = False
            while busy := {worker.reports: worker for worker in self._workers if worker.doing}:
                if stop.asked and not passed_on:
                    passed_on = True
                    waiting.clear()
                    for worker in busy.values():
                        worker.process.send_signal(signal.SIGINT)
                for reports in wait(list(busy), _LOOK):
                    self._hear(busy[reports], waiting, told)  # type: ignore[index]
        if stop.asked:
            raise Interrupted("study", "stopped", "the runs under way were saved", "the same command goes on")

    def _hear(self, worker: _Worker, waiting: list[Group], told: Callable[[Planned, Run | None], None]) -> None:
        kind, what = worker.report()
        if kind == "say":
            self.say(what)
            return
        if kind == "done":
            planned = next(one for one in worker.doing if one.folder == what.folder)
            worker.doing.remove(planned)
            told(planned, what)
            if not worker.doing:
                self._next(worker, waiting, told)
            return
        left, worker.doing = worker.doing, []
        if kind == "died":
            self._workers.remove(worker)
            worker.end()
            if len(left) > 1:  # which of them it was cannot be told
                waiting += [(planned,) for planned in left]
            elif left:
                told(left[0], _lost(left[0], what))
            if waiting:
                self._workers.append(worker := _Worker(self.lock))
                self._next(worker, waiting, told)

    def _next(self, worker: _Worker, waiting: list[Group], told: Callable[[Planned, Run | None], None]) -> None:
        if waiting:
            group = waiting.pop(0)
            for planned in group:
                told(planned, None)
            worker.give(self.work, group, max(1, _cores() // self.count))


def _lost(planned: Planned, code: int) -> Run:
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    memory = " (the system kills so when memory runs out)" if code == -signal.SIGKILL else ""
    error = f"{planned.folder}: its process was ended {how}{memory}; the same command does this run again"
    return Run(variant=planned.variant, seed=planned.seed, folder=planned.folder, summary={}, right={}, error=error)
