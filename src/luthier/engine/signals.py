# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, SIGTERM and a closed terminal: the first asks the loop to save and stop, the second stops at once.

A file can ask as well (`presence`): for one run of several, or from a page.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_STDERR = 2
_NUMBERS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class StopRequest:
    """While it is open, SIGINT, SIGTERM and SIGHUP set :attr:`asked`; a second one raises KeyboardInterrupt.

    One that is ignored stays ignored: `nohup` and background jobs of scripts ask for that.

    Args:
        file: Asks too, once it exists.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._signalled, self._file = False, file
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether someone wants the run to stop."""
        return self._signalled or self.by_file

    @property
    def by_file(self) -> bool:
        """Whether the file is there: a request to this run alone, and not to the whole process (a look costs 2 µs)."""
        return not self._signalled and self._file is not None and self._file.exists()

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in _NUMBERS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, *_: object) -> None:
        if self._signalled:
            raise KeyboardInterrupt
        self._signalled = True
        # Not sys.stderr: the signal may arrive while Python is writing to it, which then refuses a second writer.
        with suppress(OSError):  # the terminal may be gone
            os.write(_STDERR, b"\nstopping after this step, which is then saved; once more to stop at once\n")
