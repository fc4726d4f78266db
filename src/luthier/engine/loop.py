# SPDX-License-Identifier: Apache-2.0
"""The training loop: steps, schedule, evaluation, checkpoints, interruption.

The order of events in a step is fixed, so a resumed run repeats it to the bit:
forward and backward, finite check, clip, learning rate, update, log, evaluate, save.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from luthier.core.errors import Interrupted, RunStopped
from luthier.engine import checkpoint, metrics, schedule
from luthier.engine._callback import Watchers
from luthier.engine.best import check_metric, is_better, metric_of
from luthier.engine.failures import loss_not_finite, memory_as_failure, other_data, other_world, weights_not_finite
from luthier.engine.layerwise import Layerwise
from luthier.engine.machine import made_with, phase
from luthier.engine.optim import build_optimizer, clip, set_learning_rate
from luthier.engine.presence import STOP, announced
from luthier.engine.rounding import masters_of
from luthier.engine.signals import StopRequest
from luthier.engine.step import accumulate, evaluate_loss, merged
from luthier.engine.work import Progress, State, Work

if TYPE_CHECKING:
    from luthier.engine.precision import Masters
    from luthier.engine.step import StepResult


def fit(work: Work, *, resume: bool = False) -> Progress:
    """Train.

    Args:
        work: See :class:`Work`.
        resume: Go on from the newest whole checkpoint where there is one.

    Raises:
        RunFailed: The loss is not finite, memory ran out, or something cannot be written.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written.
    """
    state = begin(work, resume=resume)
    progress = state.progress
    checkpoint.set_random_state(state.random)  # last of all: whatever was made before may have drawn
    try:
        with StopRequest(work.folder / STOP if work.ranks.first else None) as stop:
            while not is_done(work, progress):
                with memory_as_failure(progress.step + 1):
                    _one_step(work, state)
                    improved = evaluate(work, state)
                by_file, asked = work.ranks.either(stop.by_file, stop.asked)
                if should_save(work, progress, improved) or asked:
                    save(work, state)
                if asked and not is_done(work, progress):
                    raise stopped(work, progress, alone=by_file)
        choose(work, state)
    finally:
        state.close()
    return progress


def begin(work: Work, *, resume: bool) -> State:
    """Make the optimiser, or put the newest whole checkpoint back, and tell who watches.

    Raises:
        RunFailed: There are checkpoints, and none is whole or fits.
        UserError: The rows are others than those that the checkpoint was trained on, or evaluations do not have
            `train.metric_for_best_model`.
    """
    masters = masters_of(work.recipe, work.trainable)
    optimizer = build_optimizer(work.recipe.optim, work.trainable, masters.twins)
    layerwise = Layerwise(work.trainable, masters, optimizer, work.ranks) if work.trainable.layerwise else None
    work.ranks.seed_apart(work.recipe.seed)
    random = checkpoint.random_state()
    if work.ranks.first:
        checkpoint.sweep(work.checkpoints)
    progress, random = _restore(work, masters, optimizer, random) if resume else (Progress(), random)
    work.ranks.check_same(masters.kept, "before the first step")
    check_metric(work)
    if work.ranks.first:
        metrics.cut(work.folder, progress.step)
    watchers = Watchers(work.callbacks, work.say)
    watchers.tell("on_start", work.folder, work.recipe.model_dump(mode="json"), work.total_steps, progress.step)
    work.trainable.model.train()
    presence = ExitStack()
    if work.ranks.first:
        presence.enter_context(announced(work.folder, work.total_steps))
    return State(
        masters=masters,
        optimizer=optimizer,
        progress=progress,
        watchers=watchers,
        random=random,
        presence=presence,
        layerwise=layerwise,
    )


def stopped(work: Work, progress: Progress, *, alone: bool) -> Interrupted:
    """The run was asked to stop, and is saved; `alone`: it and no other run of this process."""
    received = f"stopped after step {progress.step} of {work.total_steps}, which is saved"
    return (RunStopped if alone else Interrupted)(str(work.folder), received, fix="go on with --resume")


def _restore(
    work: Work, masters: Masters, optimizer: torch.optim.Optimizer, random: dict[str, str]
) -> tuple[Progress, dict[str, str]]:
    """Put the newest whole checkpoint back and say what it is; where there is none, begin with `random`."""
    found = work.ranks.from_first(lambda: checkpoint.newest_whole(work.checkpoints, work.say))
    if found is None:
        work.say(f"{work.folder}: no checkpoint yet; training starts from the beginning")
        return Progress(), random
    saved = checkpoint.load_checkpoint(found, masters.kept, optimizer, masters.twins)
    masters.publish()
    progress = Progress(**saved.progress | {"interval": metrics.Interval(**saved.progress["interval"])})
    now = made_with(work.data)
    if saved.about.get("data") != now["data"]:
        raise other_data(found)
    if (then := 1 + len(saved.others)) != work.ranks.world:
        raise other_world(found, then, work.ranks.world)
    for name, value in now.items():
        if saved.about.get(name) != value:
            was = f"{name} {value} now, {saved.about.get(name)} when {found.name} was written"
            work.say(f"{was}: the result may differ in the last bits from that of a run that never stopped")
    done = " (its training is done)" if is_done(work, progress) else ""
    work.say(f"going on after step {progress.step} of {work.total_steps}, from {found}{done}")
    return progress, (saved.random, *saved.others)[work.ranks.rank]


def _one_step(work: Work, state: State) -> None:
    wall, cpu, ranks = time.perf_counter(), time.process_time(), work.ranks
    if state.layerwise is not None:
        step = state.progress.step
        state.layerwise.begin(step, schedule.learning_rate(work.recipe.optim, step, work.total_steps))
    result = accumulate(work.trainable.model, work.objective, work.batches(state.progress.step), work.refer, ranks)
    ranks.add_gradients(state.masters.twins.values())
    shares, spent = zip(*ranks.gather((result, time.process_time() - cpu)), strict=True)
    update(work, state, merged(shares), (time.perf_counter() - wall, sum(spent)))


def update(work: Work, state: State, result: StepResult, spent: tuple[float, float]) -> None:
    """Check a step's gradient, clip it, move the parameters, count, log.

    Args:
        work: Of this run.
        state: Its gradients are used up.
        result: What came with the gradient.
        spent: Seconds of wall-clock and of the processor that the gradient took.

    Raises:
        RunFailed: Loss or gradient are not finite; nothing was moved.
    """
    optim, progress = work.recipe.optim, state.progress
    wall, cpu = time.perf_counter(), time.process_time()
    layerwise = state.layerwise
    norm = clip(state.masters.twins, optim.max_grad_norm) if layerwise is None else layerwise.norm
    if not (math.isfinite(result.loss) and math.isfinite(norm)):  # before anything was moved, if not layer by layer
        begun = layerwise is not None and layerwise.begun
        raise loss_not_finite(work.checkpoints, progress.step, result, norm, begun=begun)
    rate = schedule.learning_rate(optim, progress.step, work.total_steps)
    if layerwise is None:
        set_learning_rate(state.optimizer, rate)
        state.masters.move(state.optimizer, progress.step)
    seconds = spent[0] + time.perf_counter() - wall
    progress.step += 1
    progress.tokens += result.tokens
    progress.scored_tokens += result.scored_tokens
    progress.pairs += result.pairs
    progress.padding += result.padding
    progress.passes += result.passes
    progress.seconds += seconds
    progress.cpu_seconds += spent[1] + (time.process_time() - cpu) * work.ranks.world  # all make the same update
    progress.loss = result.loss
    progress.interval.add(result, seconds)
    speed = result.tokens / max(seconds, 1e-9)
    state.watchers.tell("on_step", {"step": progress.step, "loss": result.loss, "tokens_per_second": speed})
    if _due(progress.step, work.recipe.train.logging_steps) or progress.step == work.total_steps:
        _log(work, state, norm, rate)


def _log(work: Work, state: State, norm: float, rate: float) -> None:
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
    if work.ranks.first:
        metrics.append(work.folder, record)
    state.watchers.tell("on_log", record)


def evaluate(work: Work, state: State) -> bool:
    """Evaluate where due, and end the run where patience is at its end; True: this is the best model so far."""
    train, progress = work.recipe.train, state.progress
    last = progress.step == work.total_steps
    if not work.eval_batches or not (last or _due(progress.step, train.eval_steps)):
        return False
    with phase("evaluation"):
        values = evaluate_loss(work.trainable.model, work.objective, work.eval_batches, work.refer, work.ranks)
    progress.evaluation = values
    record = {"step": progress.step, **{f"eval_{name}": value for name, value in values.items()}}
    if work.ranks.first:
        metrics.append(work.folder, record)
    state.watchers.tell("on_evaluate", record)
    if is_better(train, values, progress.best):
        progress.best, progress.best_step, progress.waited = values, progress.step, 0
        return True
    progress.waited += 1
    progress.ended = 0 < train.early_stopping_patience <= progress.waited
    if progress.ended:
        name = metric_of(train)
        told = f"{progress.best[name]:.4f} after step {progress.best_step}" if progress.best else "never finite"
        work.say(
            f"stopping early after step {progress.step}: {progress.waited} evaluations without a better {name} ({told})"
        )
    return False


def should_save(work: Work, progress: Progress, improved: bool) -> bool:
    """Whether a checkpoint is due: the best so far, the last, or every `save_steps`."""
    train = work.recipe.train
    best = improved and train.load_best_model_at_end
    return best or is_done(work, progress) or _due(progress.step, train.save_steps)


def is_done(work: Work, progress: Progress) -> bool:
    """Whether no step is left."""
    return progress.ended or progress.step == work.total_steps


def save(work: Work, state: State) -> None:
    """Write a checkpoint with torch's random state as it is now.

    Raises:
        RunFailed: Weights are not finite, or it cannot be written.
    """
    progress, train, ranks = state.progress, work.recipe.train, work.ranks
    if broken := [name for name, kept in state.masters.kept.items() if not torch.isfinite(kept).all()]:
        raise weights_not_finite(work.checkpoints, progress.step, broken)
    ranks.check_same(state.masters.kept, f"step {progress.step}")
    random, *others = ranks.gather(checkpoint.random_state())
    path = work.checkpoints / f"{checkpoint.PREFIX}{progress.step}"
    if ranks.first:
        metrics.settle(work.folder)
        about = made_with(work.data)
        saved = checkpoint.Saved(progress=asdict(progress), random=random, about=about, others=tuple(others))
        kept, moved = state.masters.kept, state.masters.twins
        with phase("save"):
            checkpoint.save_checkpoint(work.checkpoints, progress.step, kept, state.optimizer, saved, moved)
        if train.save_total_limit is not None:
            best = progress.best_step if train.load_best_model_at_end else 0
            checkpoint.prune(work.checkpoints, progress.step, train.save_total_limit, best)
    ranks.wait()
    state.watchers.tell("on_save", path)


def choose(work: Work, state: State) -> None:
    """With `load_best_model_at_end`, go back to the best checkpoint's weights."""
    progress = state.progress
    if not work.recipe.train.load_best_model_at_end or progress.best_step in (0, progress.step):
        return
    checkpoint.load_parameters(work.checkpoints / f"{checkpoint.PREFIX}{progress.best_step}", state.masters.kept)
    state.masters.publish()
    progress.evaluation = progress.best
    name = metric_of(work.recipe.train)
    told = f"with the best evaluation ({name} {progress.best[name]:.4f})"
    work.say(f"the result is the model after step {progress.best_step}, {told}")


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
