# SPDX-License-Identifier: Apache-2.0
"""The training loop: steps, schedule, evaluation, checkpoints, interruption.

The order of events in a step is fixed, so a resumed run repeats it to the bit:
forward and backward, finite check, clip, learning rate, update, log, evaluate, save.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from luthier.core.errors import Interrupted, RunFailed
from luthier.engine import checkpoint, schedule
from luthier.engine.optim import build_optimizer, clip, set_learning_rate
from luthier.engine.precision import Masters
from luthier.engine.signals import StopRequest
from luthier.engine.step import StepResult, accumulate, evaluate_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from luthier.core.trainable import Objective, Trainable
    from luthier.core.types import Tree
    from luthier.engine._callback import Callback
    from luthier.recipe import Recipe


@dataclass
class Progress:
    """The loop's counters; a checkpoint keeps them exactly.

    Attributes:
        step: Optimiser steps done.
        tokens: Real tokens trained on.
        scored_tokens: Scored ones among them.
        seconds: Wall-clock of the training steps alone.
        cpu_seconds: Processor time of the same.
        loss: Of the last step.
        best_loss: Lowest evaluation loss.
        waited: Evaluations since it was found.
    """

    step: int = 0
    tokens: int = 0
    scored_tokens: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    loss: float = math.nan
    best_loss: float = math.inf
    waited: int = 0
    evaluation: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Everything the loop needs.

    Attributes:
        recipe: Checked.
        trainable: The model with its method.
        objective: Bound.
        total_steps: Steps of the whole run.
        batches: Step number -> its micro-batches; a pure function, so resuming needs no loader state.
        eval_batches: Evaluation batches, or none.
        folder: The run's folder.
        callbacks: Who watches.
    """

    recipe: Recipe
    trainable: Trainable
    objective: Objective
    total_steps: int
    batches: Callable[[int], Sequence[Sequence[Tree]]]
    eval_batches: Sequence[Sequence[Tree]]
    folder: Path
    callbacks: Sequence[Callback]


def fit(work: Work, *, resume: bool = False) -> Progress:
    """Train.

    Args:
        work: See :class:`Work`.
        resume: Go on from the newest whole checkpoint where there is one.

    Raises:
        RunFailed: The loss is not finite, or a checkpoint cannot be written.
        Interrupted: Ctrl-C; a checkpoint was written.
    """
    masters = Masters(work.trainable)
    optimizer = build_optimizer(work.recipe.optim, work.trainable, masters.twins)
    progress = Progress()
    if resume and (found := checkpoint.newest_good(work.folder / "checkpoints")):
        progress = Progress(**checkpoint.load_checkpoint(found, masters.twins, optimizer))
        masters.publish()
    _cut_metrics(work.folder, progress.step)
    for callback in work.callbacks:
        callback.on_start(work.folder, work.recipe.model_dump(mode="json"), work.total_steps, progress.step)
    work.trainable.model.train()
    try:
        with StopRequest() as stop:
            while progress.step < work.total_steps:
                _one_step(work, masters, optimizer, progress)
                ended = _after_step(work, progress)
                last = ended or progress.step == work.total_steps
                if stop.asked or last or _due(progress.step, work.recipe.train.save_steps):
                    _save(work, masters, optimizer, progress)
                if ended:
                    break
                if stop.asked and not last:
                    raise Interrupted(str(work.folder), f"stopped after step {progress.step} and saved", fix="go on with --resume")
    finally:
        for callback in work.callbacks:
            callback.on_end()
    return progress


def _one_step(work: Work, masters: Masters, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    optim = work.recipe.optim
    wall, cpu = time.perf_counter(), time.process_time()
    result = accumulate(work.trainable.model, work.objective, work.batches(progress.step))
    norm = clip(masters.twins, optim.max_grad_norm)
    if not (math.isfinite(result.loss) and math.isfinite(norm)):
        raise _not_finite(work, progress, result, norm)
    share = schedule.factor(
        progress.step, work.total_steps, schedule.warmup_steps(optim, work.total_steps), optim.lr_scheduler_type
    )
    set_learning_rate(optimizer, optim.learning_rate * share)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    masters.publish()
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    progress.step += 1
    progress.tokens += result.tokens
    progress.scored_tokens += result.scored_tokens
    progress.seconds += seconds
    progress.cpu_seconds += cpu_seconds
    progress.loss = result.loss
    if _due(progress.step, work.recipe.train.logging_steps) or progress.step == work.total_steps:
        record = {
            "step": progress.step,
            "loss": result.loss,
            "grad_norm": norm,
            "learning_rate": optim.learning_rate * share,
            "tokens": progress.tokens,
            "scored_tokens": progress.scored_tokens,
            "tokens_per_second": result.tokens / max(seconds, 1e-9),
            "seconds": progress.seconds,
            "cpu_seconds": progress.cpu_seconds,
            **result.metrics,
        }
        _log(work, record)
        for callback in work.callbacks:
            callback.on_log(record)


def _after_step(work: Work, progress: Progress) -> bool:
    """Evaluate where due; True means: stop early."""
    train = work.recipe.train
    last = progress.step == work.total_steps
    if not work.eval_batches or not (last or _due(progress.step, train.eval_steps)):
        return False
    values = evaluate_loss(work.trainable.model, work.objective, work.eval_batches)
    progress.evaluation = values
    record = {"step": progress.step, **{f"eval_{name}": value for name, value in values.items()}}
    _log(work, record)
    for callback in work.callbacks:
        callback.on_evaluate(record)
    if values["loss"] < progress.best_loss:
        progress.best_loss, progress.waited = values["loss"], 0
        return False
    progress.waited += 1
    return 0 < train.early_stopping_patience <= progress.waited


def _save(work: Work, masters: Masters, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    path = checkpoint.save_checkpoint(
        work.folder / "checkpoints",
        progress.step,
        masters.twins,
        optimizer,
        asdict(progress),
        keep=work.recipe.train.save_total_limit,
    )
    for callback in work.callbacks:
        callback.on_save(path)


def _not_finite(work: Work, progress: Progress, result: StepResult, norm: float) -> RunFailed:
    what = f"loss {result.loss}" if not math.isfinite(result.loss) else f"gradient norm {norm}"
    good = checkpoint.newest_good(work.folder / "checkpoints")
    rows = ", ".join(result.rows[:8]) + (" ..." if len(result.rows) > 8 else "")
    return RunFailed(
        f"step {progress.step + 1}",
        f"{what} on rows {rows}",
        f"the last good checkpoint is {good}" if good else "no checkpoint had been written yet (train.save_steps)",
        "lower optim.learning_rate, or look at these rows with `luthier data`",
    )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _log(work: Work, record: dict[str, Any]) -> None:
    with (work.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _cut_metrics(folder: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run does again."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            break  # the line that a kill cut in half
    path.write_text("".join(kept), encoding="utf-8")
