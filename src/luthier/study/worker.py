# SPDX-License-Identifier: Apache-2.0
"""A process that does runs of a study, one after another: `python -m luthier.study.worker`, started by `workers`.

Jobs come in on stdin and reports go out on stdout, both pickled: between two processes of one user on one machine.
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import BinaryIO


def main() -> None:
    """Work until there is no more."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints goes to stderr: stdout carries reports
    jobs: queue.Queue[Any] = queue.Queue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(jobs, busy), daemon=True).start()

    from luthier.core.errors import Interrupted
    from luthier.study.runner import one

    while (job := jobs.get()) is not None:
        work, planned, threads = job
        _set_threads(threads)
        busy.set()
        try:
            run = one(replace(work, say=lambda line: _send(out, "say", line)), planned)
        except (Interrupted, KeyboardInterrupt):
            _send(out, "stopped", None)
            return
        busy.clear()
        _send(out, "done", run)


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


def _send(out: BinaryIO, kind: str, what: Any) -> None:
    pickle.dump((kind, what), out)
    out.flush()


if __name__ == "__main__":
    main()
