# SPDX-License-Identifier: Apache-2.0
"""A progress bar on stderr: step, loss, tokens a second, time left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from luthier.engine._callback import Callback

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LINES = 10  # lines of a whole run where stderr is a file


class Progress(Callback):
    """rich's bar; a plain line every tenth of the run where stderr is no terminal.

    Args:
        console: Where to write; stderr by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar = Bar(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[speed]} tokens/s"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task: Any = None
        self._total = 0

    def on_start(self, folder: Path, recipe: Mapping[str, Any], total_steps: int, step: int) -> None:  # noqa: ARG002
        """Show the bar."""
        self._total = total_steps
        if self._console.is_terminal:
            self._task = self._bar.add_task(folder.name, total=total_steps, completed=step, loss="-", speed="-")
            self._bar.start()

    def on_step(self, record: Mapping[str, Any]) -> None:
        """Move it."""
        step, loss, speed = record["step"], f"{record['loss']:.3f}", f"{record['tokens_per_second']:,.0f}"
        if self._task is not None:
            self._bar.update(self._task, completed=step, loss=loss, speed=speed)
        elif step % max(1, self._total // LINES) == 0 or step == self._total:
            self._print(f"step {step}/{self._total}  loss {loss}  {speed} tokens/s")

    def on_evaluate(self, record: Mapping[str, Any]) -> None:
        """Say what was found."""
        told = "  ".join(f"{name} {value:.4f}" for name, value in record.items() if name != "step")
        self._print(f"step {record['step']}/{self._total}  {told}")

    def on_end(self) -> None:
        """Take it away."""
        if self._task is not None:
            self._bar.stop()

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False)


def make(folder: Path) -> Callback:  # noqa: ARG001 - every callback is made with the run's folder
    """A fresh bar."""
    return Progress()
