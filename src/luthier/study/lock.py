# SPDX-License-Identifier: Apache-2.0
"""One process at a time works on a study; its workers count as it.

The lock is the system's (`flock`): workers inherit it, so after `kill -9` of the study it is free again once the
last of them has saved its run. The next call waits for that instead of finding runs under way.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from luthier.core.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE = 120.0  # seconds: a run under way saves after its step; a step of a large model on a CPU takes a minute
_LOOK = 0.1


@contextmanager
def held(folder: Path, say: Callable[[str], None], patience: float = PATIENCE) -> Iterator[int | None]:
    """Inside, nobody else runs this study.

    Args:
        folder: Of the study; it exists.
        say: Told if it has to wait.
        patience: Seconds to wait for others.

    Yields:
        The lock's file number, to be handed to workers; None where the system has no such lock.

    Raises:
        RecipeError: Another process still holds it.
    """
    if os.name != "posix":
        yield None
        return
    import fcntl

    with (folder / ".lock").open("w") as lock:
        end, waited = time.monotonic() + patience, False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    received = f"another process runs the study in {folder}"
                    fix = "wait, or choose another output_dir"
                    raise RecipeError("study output_dir", received, "one at a time", fix) from None
            if not waited:
                say(f"{folder}: waiting for another process that runs this study")
            waited = True
            time.sleep(_LOOK)
        yield lock.fileno()
