# SPDX-License-Identifier: Apache-2.0
"""Weights & Biases: every number of metrics.jsonl as a curve; WANDB_PROJECT, WANDB_MODE ... are its own settings."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any

from luthier.core.errors import MissingExtra
from luthier.engine._callback import Callback

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import ModuleType


class WeightsAndBiases(Callback):
    """Sends numbers as the run goes.

    Args:
        wandb: The package.
    """

    def __init__(self, wandb: ModuleType) -> None:
        self._wandb = wandb
        self._run: Any = None

    def on_start(self, folder: Path, recipe: Mapping[str, Any], total_steps: int, step: int) -> None:  # noqa: ARG002
        """Open the run, or the same one again where it is resumed."""
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "luthier"),
            name=os.environ.get("WANDB_NAME", folder.name),
            dir=str(folder),
            config=dict(recipe),
            id=_run_id(folder),
            resume="allow",
        )

    def on_log(self, record: Mapping[str, Any]) -> None:
        """Curves `train/...`."""
        self._send("train/", "", record)

    def on_evaluate(self, record: Mapping[str, Any]) -> None:
        """Curves `eval/...`."""
        self._send("eval/", "eval_", record)

    def on_end(self) -> None:
        """Send what is left and close."""
        if self._run is not None:
            self._run.finish()

    def _send(self, group: str, prefix: str, record: Mapping[str, Any]) -> None:
        values = {group + name.removeprefix(prefix): value for name, value in record.items() if name != "step"}
        self._run.log(values, step=record["step"])


def make(folder: Path) -> Callback:  # noqa: ARG001 - every callback is made with the run's folder
    """Look for the package before anything is trained.

    Raises:
        MissingExtra: W&B is not installed.
    """
    try:
        import wandb  # this file's name is luthier.engine.callbacks.wandb: no clash
    except ImportError:
        raise MissingExtra("train.report_to: wandb", "wandb", "trackers") from None
    return WeightsAndBiases(wandb)


def _run_id(folder: Path) -> str:
    """The run's name on the server, kept in its folder: a resumed run draws on in the same curves."""
    kept = folder / "wandb" / "run-id"
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
    return kept.read_text(encoding="utf-8")
