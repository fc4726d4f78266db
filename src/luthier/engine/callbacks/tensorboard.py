# SPDX-License-Identifier: Apache-2.0
"""TensorBoard: every number of metrics.jsonl as a curve, in the run's folder `tensorboard/`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.errors import MissingExtra
from luthier.engine._callback import Callback

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class TensorBoard(Callback):
    """Writes event files as the run goes.

    Args:
        writer: `torch.utils.tensorboard.SummaryWriter`.
    """

    def __init__(self, writer: type) -> None:
        self._writer = writer
        self._events: Any = None

    def on_start(self, folder: Path, recipe: Mapping[str, Any], total_steps: int, step: int) -> None:  # noqa: ARG002
        """Open the event file; a resumed run takes back the steps that it does again."""
        self._events = self._writer(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def on_log(self, record: Mapping[str, Any]) -> None:
        """Curves `train/...`."""
        self._add("train/", "", record)

    def on_evaluate(self, record: Mapping[str, Any]) -> None:
        """Curves `eval/...`."""
        self._add("eval/", "eval_", record)

    def on_end(self) -> None:
        """Write what is left and close."""
        if self._events is not None:
            self._events.close()

    def _add(self, group: str, prefix: str, record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            if name != "step":
                self._events.add_scalar(group + name.removeprefix(prefix), value, record["step"])


def make(folder: Path) -> Callback:  # noqa: ARG001 - every callback is made with the run's folder
    """Look for the package before anything is trained.

    Raises:
        MissingExtra: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtra("train.report_to: tensorboard", "tensorboard", "trackers") from None
    return TensorBoard(SummaryWriter)
