# SPDX-License-Identifier: Apache-2.0
"""The training loop: steps, schedule, evaluation, checkpoints, interruption.

The order of events in a step is fixed, so a resumed run repeats it to the bit:
forward and backward, finite check, clip, learning rate, update, log, evaluate, save.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from luthier.core.errors import Interrupted, RunStopped
from luthier.engine import checkpoint, metrics, schedule
from luthier.engine._callback import Watchers
from luthier.engine.failures import loss_not_finite, memory_as_failure, other_data, weights_not_finite
from luthier.engine.machine import made_with
from luthier.engine.optim import build_optimizer, clip, set_learning_rate
from luthier.engine.precision import Masters
from luthier.engine.presence import STOP, announced
from luthier.engine.signals import StopRequest
from luthier.engine.step import accumulate, evaluate_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
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
        evaluation: What the last evaluation found.
        best: What the one with the lowest loss found.
        best_step: The step it came after; 0 where there was none.
        waited: Evaluations since then.
        ended: Whether the run stopped early.
        interval: Sums since the last logged line.
    """

    step: int = 0
    tokens: int = 0
    scored_tokens: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    loss: float | None = None
    evaluation: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    waited: int = 0
    ended: bool = False
    interval: metrics.Interval = field(default_factory=metrics.Interval)


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
        data: Digest of the training rows: a run is resumed on the same ones only.
        callbacks: Who watches, by name.
        say: Receives one line at a time about what happens.
    """

    recipe: Recipe
    trainable: Trainable
    objective: Objective
    total_steps: int
    batches: Callable[[int], Sequence[Sequence[Tree]]]
    eval_batches: Sequence[Sequence[Tree]] = ()
    folder: Path
    data: str = ""
    callbacks: Mapping[str, Callback] = field(default_factory=dict)
    say: Callable[[str], None] = lambda _: None

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"


@dataclass(frozen=True, kw_only=True)
class _State:
    """What changes while the loop runs."""

    masters: Masters
    optimizer: torch.optim.Optimizer
    progress: Progress
    watchers: Watchers


def fit(work: Work, *, resume: bool = False) -> Progress:
    """Train.

    Args:
        work: See :class:`Work`.
        resume: Go on from the newest whole checkpoint where there is one.

    Raises:
        RunFailed: The loss is not finite, memory ran out, or something cannot be written.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written.
    """
    masters = Masters(work.trainable)
    optimizer = build_optimizer(work.recipe.optim, work.trainable, masters.twins)
    random = checkpoint.random_state()
    checkpoint.sweep(work.checkpoints)
    progress, random = _restore(work, masters, optimizer, random) if resume else (Progress(), random)
    metrics.cut(work.folder, progress.step)
    state = _State(masters=masters, optimizer=optimizer, progress=progress, watchers=Watchers(work.callbacks, work.say))
    state.watchers.tell("on_start", work.folder, work.recipe.model_dump(mode="json"), work.total_steps, progress.step)
    work.trainable.model.train()
    checkpoint.set_random_state(random)  # last of all: trackers and whatever else was made before may have drawn
    try:
        with announced(work.folder, work.total_steps), StopRequest(work.folder / STOP) as stop:
            while progress.step < work.total_steps and not progress.ended:
                with memory_as_failure(progress.step + 1):
                    _one_step(work, state)
                    improved = _evaluate(work, state)
                by_file, asked = stop.by_file, stop.asked
                if _should_save(work, progress, improved) or asked:
                    _save(work, state)
                if asked and not _is_done(work, progress):
                    received = f"stopped after step {progress.step} of {work.total_steps}, which is saved"
                    kind = RunStopped if by_file else Interrupted
                    raise kind(str(work.folder), received, fix="go on with --resume")
        _choose(work, state)
    finally:
        state.watchers.tell("on_end")
        masters.release()
    return progress


def _restore(
    work: Work, masters: Masters, optimizer: torch.optim.Optimizer, random: dict[str, str]
) -> tuple[Progress, dict[str, str]]:
    """Put the newest whole checkpoint back and say what it is; where there is none, begin with `random`."""
    found = checkpoint.newest_whole(work.checkpoints, work.say)
    if found is None:
        work.say(f"{work.folder}: no checkpoint yet; training starts from the beginning")
        return Progress(), random
    saved = checkpoint.load_checkpoint(found, masters.twins, optimizer)
    masters.publish()
    progress = Progress(**saved.progress | {"interval": metrics.Interval(**saved.progress["interval"])})
    now = made_with(work.data)
    if saved.about.get("data") != now["data"]:
        raise other_data(found)
    for name, value in now.items():
        if saved.about.get(name) != value:
            was = f"{name} {value} now, {saved.about.get(name)} when {found.name} was written"
            work.say(f"{was}: the result may differ in the last bits from that of a run that never stopped")
    done = " (its training is done)" if _is_done(work, progress) else ""
    work.say(f"going on after step {progress.step} of {work.total_steps}, from {found}{done}")
    return progress, saved.random


def _one_step(work: Work, state: _State) -> None:
    optim, progress = work.recipe.optim, state.progress
    wall, cpu = time.perf_counter(), time.process_time()
    result = accumulate(work.trainable.model, work.objective, work.batches(progress.step))
    norm = clip(state.masters.twins, optim.max_grad_norm)
    if not (math.isfinite(result.loss) and math.isfinite(norm)):
        raise loss_not_finite(work.checkpoints, progress.step, result, norm)  # before anything was moved
    rate = schedule.learning_rate(optim, progress.step, work.total_steps)
    set_learning_rate(state.optimizer, rate)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.masters.publish()
    seconds = time.perf_counter() - wall
    progress.step += 1
    progress.tokens += result.tokens
    progress.scored_tokens += result.scored_tokens
    progress.seconds += seconds
    progress.cpu_seconds += time.process_time() - cpu
    progress.loss = result.loss
    progress.interval.add(result, seconds)
    speed = result.tokens / max(seconds, 1e-9)
    state.watchers.tell("on_step", {"step": progress.step, "loss": result.loss, "tokens_per_second": speed})
    if _due(progress.step, work.recipe.train.logging_steps) or progress.step == work.total_steps:
        _log(work, state, norm, rate)


def _log(work: Work, state: _State, norm: float, rate: float) -> None:
    """Write the means since the last line; norm and rate are the last step's, as in transformers' Trainer."""
    progress = state.progress
    interval, progress.interval = progress.interval, metrics.Interval()
    record: dict[str, Any] = {
        "step": progress.step,
        **interval.means(),
        "grad_norm": norm,
        "learning_rate": rate,
        "tokens": progress.tokens,
        "scored_tokens": progress.scored_tokens,
        "tokens_per_second": interval.tokens / max(interval.seconds, 1e-9),
        "seconds": progress.seconds,
        "cpu_seconds": progress.cpu_seconds,
    }
    metrics.append(work.folder, record)
    state.watchers.tell("on_log", record)


def _evaluate(work: Work, state: _State) -> bool:
    """Evaluate where due, and end the run where patience is at its end; True: this is the best model so far."""
    train, progress = work.recipe.train, state.progress
    last = progress.step == work.total_steps
    if not work.eval_batches or not (last or _due(progress.step, train.eval_steps)):
        return False
    values = evaluate_loss(work.trainable.model, work.objective, work.eval_batches)
    progress.evaluation = values
    record = {"step": progress.step, **{f"eval_{name}": value for name, value in values.items()}}
    metrics.append(work.folder, record)
    state.watchers.tell("on_evaluate", record)
    if math.isfinite(values["loss"]) and values["loss"] < progress.best.get("loss", math.inf):
        progress.best, progress.best_step, progress.waited = values, progress.step, 0
        return True
    progress.waited += 1
    progress.ended = 0 < train.early_stopping_patience <= progress.waited
    if progress.ended:
        best = f"{progress.best['loss']:.4f} after step {progress.best_step}" if progress.best else "never finite"
        work.say(
            f"stopping early after step {progress.step}: {progress.waited} evaluations without a better loss ({best})"
        )
    return False


def _should_save(work: Work, progress: Progress, improved: bool) -> bool:
    train = work.recipe.train
    best = improved and train.load_best_model_at_end
    return best or _is_done(work, progress) or _due(progress.step, train.save_steps)


def _is_done(work: Work, progress: Progress) -> bool:
    return progress.ended or progress.step == work.total_steps


def _save(work: Work, state: _State) -> None:
    progress, train = state.progress, work.recipe.train
    if broken := [name for name, twin in state.masters.twins.items() if not torch.isfinite(twin).all()]:
        raise weights_not_finite(work.checkpoints, progress.step, broken)
    metrics.settle(work.folder)
    path = checkpoint.save_checkpoint(
        work.checkpoints,
        progress.step,
        state.masters.twins,
        state.optimizer,
        checkpoint.Saved(progress=asdict(progress), random=checkpoint.random_state(), about=made_with(work.data)),
    )
    if train.save_total_limit is not None:
        best = progress.best_step if train.load_best_model_at_end else 0
        checkpoint.prune(work.checkpoints, progress.step, train.save_total_limit, best)
    state.watchers.tell("on_save", path)


def _choose(work: Work, state: _State) -> None:
    """With `load_best_model_at_end`, go back to the best checkpoint's weights."""
    progress = state.progress
    if not work.recipe.train.load_best_model_at_end or progress.best_step in (0, progress.step):
        return
    checkpoint.load_parameters(work.checkpoints / f"{checkpoint.PREFIX}{progress.best_step}", state.masters.twins)
    state.masters.publish()
    progress.evaluation = progress.best
    work.say(f"the result is the model after step {progress.best_step}, with the lowest evaluation loss")


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
