# SPDX-License-Identifier: Apache-2.0
"""The callback: hooks that do nothing until a child says otherwise, and the list of those that watch a run."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from luthier.core import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path


class Callback:
    """Watches a run; cannot change it."""

    def on_start(self, folder: Path, recipe: Mapping[str, Any], total_steps: int, step: int) -> None:
        """The run starts, or goes on after `step`."""

    def on_step(self, record: Mapping[str, Any]) -> None:
        """A step was done: `step`, `loss` (its own) and `tokens_per_second`. Called at every step; keep it quick."""

    def on_log(self, record: Mapping[str, Any]) -> None:
        """A line was written to metrics.jsonl, every `logging_steps`; `record` is that line."""

    def on_evaluate(self, record: Mapping[str, Any]) -> None:
        """An evaluation was written to metrics.jsonl; `record` is that line."""

    def on_save(self, path: Path) -> None:
        """A checkpoint was written."""

    def on_end(self) -> None:
        """The run ends, for whatever reason."""


def make_watchers(folder: Path, names: Iterable[str]) -> dict[str, Callback]:
    """Fresh callbacks for a run.

    Args:
        folder: The run's.
        names: Files of `engine/callbacks`.

    Raises:
        RecipeError: There is none of that name.
    """
    return {name: registry.get("engine.callbacks", name, "train.report_to").make(folder) for name in names}


class Watchers:
    """The callbacks of a run. One that fails is reported once and switched off; training goes on.

    A tracker's server may be down or its disk full, and hours of training are worth more than its curve; metrics.jsonl
    has every number besides.

    Args:
        callbacks: By name.
        say: Receives one line about a callback that failed.

    Example:
        >>> class Broken(Callback):
        ...     def on_end(self):
        ...         raise OSError("server is down")
        >>> watchers = Watchers({"broken": Broken()}, print)
        >>> watchers.tell("on_end")  # doctest: +ELLIPSIS
        callback broken failed in on_end (OSError: server is down, at ...); it is switched off, training goes on
        >>> watchers.tell("on_end")
    """

    def __init__(self, callbacks: Mapping[str, Callback], say: Callable[[str], None] = lambda _: None) -> None:
        self.callbacks, self.say = dict(callbacks), say

    def tell(self, hook: str, *values: Any) -> None:
        """Call one hook of every callback."""
        for name, callback in list(self.callbacks.items()):
            try:
                getattr(callback, hook)(*values)
            except Exception as error:  # whatever a tracker raises; KeyboardInterrupt is none of these
                del self.callbacks[name]
                at = traceback.extract_tb(error.__traceback__)[-1]
                what = f"{type(error).__name__}: {error}, at {at.filename}:{at.lineno}"
                self.say(f"callback {name} failed in {hook} ({what}); it is switched off, training goes on")
