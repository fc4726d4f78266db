# SPDX-License-Identifier: Apache-2.0
"""A process that does runs of a study, one after another: `python -m luthier.study.worker`, started by `workers`.

Jobs come in on stdin and reports go out on a pipe whose number is the argument, both pickled: between two processes of
one user on one machine.
When stdin closes the study is gone: the run that is under way saves and stops, as on SIGTERM.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Work until there is no more."""
    # A study in the background of a script ignores Ctrl-C, and what it starts inherits that; here SIGINT comes from the
    # study alone, which passes on whatever stops it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    out = Connection(int(sys.argv[1]), readable=False)
    jobs: queue.Queue[Any] = queue.Queue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(jobs, busy), daemon=True).start()

    from luthier.study.memory import quick_release
    from luthier.study.together import several

    with quick_release():
        _work(jobs, busy, out, several)


def _work(jobs: queue.Queue[Any], busy: threading.Event, out: Connection, several: Callable[[Any, Any], Any]) -> None:
    from luthier.core.errors import Interrupted

    while (job := jobs.get()) is not None:
        work, group, threads = job
        _set_threads(threads)
        busy.set()
        left = len(group)
        try:
            for _, run in several(replace(work, say=lambda line: out.send(("say", line))), group):
                left -= 1
                if not left:
                    busy.clear()
                out.send(("done", run))
        except (Interrupted, KeyboardInterrupt):
            out.send(("stopped", None))
            return


def _set_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


def _listen(jobs: queue.Queue[Any], busy: threading.Event) -> None:
    while True:
        try:
            jobs.put(pickle.load(sys.stdin.buffer))  # noqa: S301 - from the process that started this one
        except (EOFError, OSError, pickle.UnpicklingError):
            break
    jobs.put(None)
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
