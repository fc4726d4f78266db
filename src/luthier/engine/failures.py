# SPDX-License-Identifier: Apache-2.0
"""Why a run that had started cannot go on, in words that help."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from luthier.core.errors import RunFailed, UserError
from luthier.engine.checkpoint import find_checkpoints, step_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from luthier.engine.step import StepResult

ROWS = 8  # rows that a message names


def loss_not_finite(checkpoints: Path, step: int, result: StepResult, norm: float, *, begun: bool = False) -> RunFailed:
    """The loss or the gradient of a step is NaN or infinite.

    Args:
        checkpoints: The run's folder of checkpoints.
        step: Steps done before this one.
        result: Of this step.
        norm: The gradient's norm.
        begun: Whether some parameters had moved in this step already.
    """
    what = f"loss {result.loss}" if not math.isfinite(result.loss) else f"gradient norm {norm}"
    rows = ", ".join(result.rows[:ROWS]) + (f" and {len(result.rows) - ROWS} more" if len(result.rows) > ROWS else "")
    return RunFailed(
        f"step {step + 1}",
        f"{what} on rows {rows}",
        f"{'an update was begun and is not saved' if begun else 'no update was made'}; {_last_good(checkpoints, step)}",
        "lower optim.learning_rate, or look at these rows with `luthier data`",
    )


def weights_not_finite(checkpoints: Path, step: int, names: Sequence[str]) -> RunFailed:
    """An update made weights NaN or infinite; they are not saved."""
    return RunFailed(
        f"step {step}",
        f"{len(names)} parameters are no longer finite ({names[0]} ...)",
        f"they are not saved; {_last_good(checkpoints, step)}",
        "lower optim.learning_rate",
    )


def _last_good(checkpoints: Path, step: int) -> str:
    """Name the newest checkpoint; one that holds the very weights that failed is told apart from one before it."""
    found = find_checkpoints(checkpoints)
    before = [path for path in found if step_of(path) < step]
    if before:
        return f"the last good checkpoint is {before[-1]}"
    if found:
        return f"{found[-1]} holds the weights that gave it, and there is none before it"
    return "no checkpoint had been written yet (train.save_steps)"


@contextmanager
def memory_as_failure(step: int) -> Iterator[None]:
    """Say what to do when memory runs out.

    Raises:
        RunFailed: It did; torch raises an error of its own on a GPU, and a plain RuntimeError on a CPU.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        told = str(error)
        plain = isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError)
        if plain and "can't allocate memory" not in told and "not enough memory" not in told:
            raise
        raise RunFailed(
            f"step {step}",
            f"memory ran out ({told.splitlines()[0][:160] if told else type(error).__name__})",
            "checkpoints written before are untouched",
            "set train.gradient_checkpointing: true, or lower train.per_device_train_batch_size or data.max_length",
        ) from error


def other_world(path: Path, then: int, now: int) -> UserError:
    """The checkpoint was written by another number of ranks, whose steps held other rows."""
    return UserError(
        "torchrun",
        f"{now} {'processes' if now > 1 else 'process'}, and {path} was written by {then}",
        "as many as before: the steps of others hold other rows",
        f"start {then} again, or begin anew with --overwrite",
    )


def other_data(path: Path) -> UserError:
    """The rows are not those that the checkpoint was trained on."""
    return UserError(
        "data.train",
        f"other rows than those that {path} was trained on",
        "the same rows: the run would be neither the old one nor a new one",
        "put the old rows back, or begin anew with --overwrite",
    )
