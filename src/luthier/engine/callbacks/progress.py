# SPDX-License-Identifier: Apache-2.0
"""A progress bar on stderr: step, loss, tokens a second, time left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.engine._callback import Callback

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Progress(Callback):
    """rich's bar; a plain line every tenth of the run where stderr is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
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

    def on_start(self, folder: Path, recipe: Mapping[str, Any], total_steps: int, step: int) -> None:
        """Show the bar."""
        self._total = total_steps
        if self._console.is_terminal:
            self._task = self._bar.add_task(folder.name, total=total_steps, completed=step, loss="-", speed="-")
            self._bar.start()

    def on_log(self, record: Mapping[str, Any]) -> None:
        """Move it."""
        loss, speed = f"{record['loss']:.3f}", f"{record['tokens_per_second']:,.0f}"
        if self._task is not None:
            self._bar.update(self._task, completed=record["step"], loss=loss, speed=speed)
        elif record["step"] % max(1, self._total // 10) == 0:
            self._console.print(f"step {record['step']}/{self._total}  loss {loss}  {speed} tokens/s", highlight=False)

    def on_end(self) -> None:
        """Take it away."""
        if self._task is not None:
            self._bar.stop()


def make(folder: Path) -> Callback:  # noqa: ARG001 - every callback is made with the run's folder
    """A fresh bar."""
    return Progress()
