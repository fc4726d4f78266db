# SPDX-License-Identifier: Apache-2.0
"""The callback: hooks that do nothing until a child says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Callback:
    """Watches a run; cannot change it."""

    def on_start(self, folder: Path, recipe: Mapping[str, Any], total_steps: int, step: int) -> None:
        """The run starts (or goes on) at `step`."""

    def on_log(self, record: Mapping[str, Any]) -> None:
        """A training step was logged; `record` is its line in metrics.jsonl."""

    def on_evaluate(self, record: Mapping[str, Any]) -> None:
        """An evaluation was logged."""

    def on_save(self, path: Path) -> None:
        """A checkpoint was written."""

    def on_end(self) -> None:
        """The run ends, for whatever reason."""
