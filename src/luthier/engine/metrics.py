# SPDX-License-Identifier: Apache-2.0
"""metrics.jsonl: one JSON object a line; what is logged is the mean since the line before."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from luthier.core.errors import RunFailed

if TYPE_CHECKING:
    from pathlib import Path

    from luthier.engine.step import StepResult

NAME = "metrics.jsonl"


@dataclass(kw_only=True)
class Interval:
    """Sums since the last logged line. A checkpoint keeps them, so a resumed run logs the same means.

    Attributes:
        sums: Loss and metrics over all units.
        units: What they are divided by. Every scored token of the interval weighs the same, as within a step;
            with one step an interval that is the step's own loss.
        tokens: Real tokens.
        seconds: Wall-clock of the steps.
    """

    sums: dict[str, float] = field(default_factory=dict)
    units: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def add(self, result: StepResult, seconds: float) -> None:
        """Count one step."""
        for name, value in result.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.units += result.units
        self.tokens += result.tokens
        self.seconds += seconds

    def means(self) -> dict[str, float]:
        """Loss and metrics per unit."""
        return {name: value / max(1, self.units) for name, value in self.sums.items()}


def append(folder: Path, record: dict[str, Any]) -> None:
    """Add a line.

    Raises:
        RunFailed: The disk is full or not writable.
    """
    path = folder / NAME
    told = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told, allow_nan=False) + "\n")
    except OSError as error:
        raise _unwritable(path, error) from error


def settle(folder: Path) -> None:
    """Make sure that every line is on the disk; a checkpoint that is must not be ahead of them.

    Raises:
        RunFailed: The disk is full or not writable.
    """
    path = folder / NAME
    try:
        if path.exists():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    except OSError as error:
        raise _unwritable(path, error) from error


def cut(folder: Path, step: int) -> None:
    """Drop the lines after a step, which a resumed run writes again, and a line that a kill cut in half.

    The file is replaced in one go: a kill at any instant leaves the old one or the new one.

    Raises:
        RunFailed: The disk is full or not writable.
    """
    path, writing = folder / NAME, folder / f".{NAME}.writing"
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            break
    try:
        writing.write_text("".join(kept), encoding="utf-8")
        writing.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> RunFailed:
    return RunFailed(
        str(path),
        f"could not be written ({error.strerror or error})",
        "checkpoints written before are untouched",
        "free some space and go on with --resume",
    )
