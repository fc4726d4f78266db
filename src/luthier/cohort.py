# SPDX-License-Identifier: Apache-2.0
"""Several recipes to as many results on one base: what `run.py` does for one, with the base loaded and proven once.

Where two or more runs fit into a pass (`STACKED` tokens), they train side by side (`engine.cohort`); where a step
fills the machine already, they train one after another on the same base, each to the bits of a run alone. Each keeps
the folder that a run alone would write, so it is resumed, evaluated and compared like any other; its summary says in
`shared` how many trained side by side.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from luthier.core.errors import Interrupted, LuthierError, ModelError, RecipeError, RunStopped
from luthier.engine import folder as run_folder
from luthier.engine import machine
from luthier.engine._callback import make_watchers
from luthier.engine.cohort import Member, fit_together
from luthier.engine.distributed import refuse_several
from luthier.engine.loop import fit
from luthier.engine.optim import check_optimizer, state_bytes
from luthier.engine.precision import pick_device, pick_dtype, routed_float32
from luthier.engine.rows import read_rows
from luthier.engine.summary import summarise
from luthier.export.hub import check_run
from luthier.models.draws import Draws
from luthier.models.probe_many import prove_side_by_side, shares_passes
from luthier.models.side_by_side import SideBySide, member_of
from luthier.models.threads import fitting_threads
from luthier.planning.ahead import Ahead
from luthier.planning.counts import count
from luthier.planning.free import free_bytes
from luthier.planning.need import SHARE, need_of
from luthier.planning.work import work_of
from luthier.recipe.sharing import base_of, why_alone
from luthier.run import RunResult, apply_method, close_run, load_base, open_run, train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

    from luthier.core.trainable import Trainable
    from luthier.engine.rows import Rows
    from luthier.engine.work import Work
    from luthier.recipe import Recipe, Resolved

    Say = Callable[[str], None]

# Tokens of a pass of several runs. On a CPU (bfloat16, 25 M parameters, eight adapters of rank 4 to 256) stacking made
# passes of 8 x 64 tokens 1.09 times as fast, of 8 x 128 to 8 x 512 0.99 to 1.05, of 8 x 4,096 0.80. GPUs not measured.
STACKED = {"cpu": 1024, "cuda": 16384}


@dataclass(kw_only=True)
class Asked:
    """One of the runs: its recipe, and `resume` and `overwrite` as for :func:`luthier.run.train`."""

    resolved: Resolved
    resume: bool = False
    overwrite: bool = False


@dataclass(kw_only=True)
class _Entry:
    """A run on its way; the stack holds the lock on its folder."""

    place: int
    asked: Asked
    folder: Path
    stack: ExitStack
    rows: Rows
    trainable: Trainable | None = None
    draws: Draws | None = None

    @property
    def recipe(self) -> Recipe:
        """Of the run."""
        return self.asked.resolved.recipe

    def adapted(self) -> tuple[Trainable, Draws]:
        """What :func:`_adapt` gave it."""
        assert self.trainable is not None
        assert self.draws is not None
        return self.trainable, self.draws


@dataclass(frozen=True, kw_only=True)
class _Given:
    """What all of them get."""

    base: Any
    say: Say
    callbacks: Sequence[str]


def train_together(
    runs: Sequence[Asked], *, say: Say = lambda _: None, callbacks: Sequence[str] = ()
) -> Iterator[tuple[int, RunResult | LuthierError]]:
    """Fine-tune one base as several recipes say.

    Args:
        runs: Recipes with the same base (:func:`base_of`), none of which must run alone (:func:`why_alone`).
        say: Receives one line at a time about what happens.
        callbacks: Names of callbacks that watch the first run, besides each recipe's own `train.report_to`.

    Yields:
        Place and result of each run as it ends, or the error that ended it; the others go on.

    Raises:
        RecipeError: They cannot share a base; nothing has run.
        Interrupted: Stopped by Ctrl-C; every run under way is saved.
    """
    refuse_several("a cohort")
    _check(runs)
    first = runs[0].resolved.recipe
    device = pick_device()
    with ExitStack() as stack:
        stack.enter_context(
            routed_float32(device.type == "cpu" and str(pick_dtype(first.model.dtype)) == "torch.float32")
        )
        entries = []
        for place, asked in enumerate(runs):
            try:
                entry = _enter(place, asked, say, stack)
            except LuthierError as error:
                yield place, error
                continue
            if isinstance(entry, RunResult):
                yield place, entry
            else:
                entries.append(entry)
        if not entries:
            return
        given = _Given(base=load_base(first, None, say).requires_grad_(False), say=say, callbacks=callbacks)
        most = STACKED.get(device.type, 0)
        threads = stack.enter_context(fitting_threads(given.base))
        stack.enter_context(machine.kept_pages())
        say(machine.where(device, threads))
        while entries:
            now = _candidates(entries, given, most)
            entries = entries[len(now) :]
            for entry in list(now):
                try:
                    _adapt(entry, given)
                except LuthierError as error:
                    now.remove(entry)
                    yield entry.place, error
            fitting = _fitting(now, given, most)
            now, entries = now[:fitting], now[fitting:] + entries
            if now:
                yield from _stacked(now, given, most) if len(now) > 1 else _alone(now[0], given)


def _check(runs: Sequence[Asked]) -> None:
    where = "runs side by side"
    if len({base_of(asked.resolved.recipe) for asked in runs}) > 1:
        raise RecipeError(where, "different base models or numbers", "the same `model` section in all")
    if len({asked.resolved.recipe.output_dir for asked in runs}) < len(runs):
        raise RecipeError(where, "one output_dir for several runs", "a folder for each")
    for asked in runs:
        if why := why_alone(asked.resolved.recipe):
            raise RecipeError(where, f"{asked.resolved.recipe.output_dir}: {why}", "runs that leave the base as it is")


def _enter(place: int, asked: Asked, say: Say, outer: ExitStack) -> _Entry | RunResult:
    """Take hold of a run's folder and read its rows; a run that is finished gives its result."""
    check_optimizer(asked.resolved.recipe.optim)
    check_run(asked.resolved.recipe)
    folder = run_folder.check_folder(asked.resolved, resume=asked.resume, overwrite=asked.overwrite)
    if asked.resume and run_folder.finished(folder, asked.resolved.fingerprint):
        return train(asked.resolved, resume=True, say=say)
    with ExitStack() as opening:
        opening.enter_context(run_folder.held(folder))
        rows = read_rows(asked.resolved.recipe, say)
        stack = outer.enter_context(opening.pop_all())
    return _Entry(place=place, asked=asked, folder=folder, stack=stack, rows=rows)


def _candidates(entries: Sequence[_Entry], given: _Given, most: int) -> list[_Entry]:
    """The next runs that would train side by side, or one: two of their micro-batches fit into a pass."""
    reason = shares_passes(given.base)
    if reason is not None and len(entries) > 1:
        given.say(f"{reason}; runs that share it train one after another")
    small = list(takewhile(lambda entry: reason is None and _tokens(entry) * 2 <= most, entries))
    return small if len(small) > 1 else [entries[0]]


def _tokens(entry: _Entry) -> float:
    """Tokens of a run's micro-batch, as its first steps have them."""
    steps = range(min(4, entry.rows.batches.total_steps))
    sizes = [sum(map(len, trees)) for step in steps for trees in entry.rows.batches.step(step)]
    return sum(sizes) / max(1, len(sizes))


def _fitting(entries: Sequence[_Entry], given: _Given, most: int) -> int:
    """How many of these, one at least, fit into memory: each its parameters and states, and one pass."""
    free = free_bytes(given.base.device)
    if free is None or len(entries) < 2:
        return len(entries)
    largest = max(entries, key=lambda entry: entry.adapted()[0].num_trainable)
    tokens = max(most, *(entry.rows.batches.largest() for entry in entries))
    work = replace(work_of(largest.recipe, largest.rows), tokens=tokens, scored=tokens, eval_tokens=0)
    passing = need_of(count(largest.adapted()[0]), work, largest.recipe.optim, given.base.device.type)
    held, fitting = passing.growth - passing.states, 0
    for entry in entries:  # parameters are there already; gradients in float32 and the optimiser's state are not
        held += (4 + state_bytes(entry.recipe.optim)) * entry.adapted()[0].num_trainable
        fitting += held <= SHARE * free
    if fitting < len(entries):
        given.say(f"{max(1, fitting)} of {len(entries)} runs fit into memory side by side; the others follow")
    for entry in entries[max(1, fitting) :]:
        entry.trainable = None
    return max(1, fitting)


def _adapt(entry: _Entry, given: _Given) -> None:
    """Give a run its model and its random numbers."""
    member: PreTrainedModel = member_of(given.base)
    entry.trainable = apply_method(entry.recipe, member, given.say)
    entry.draws = Draws()


def _open(entry: _Entry, given: _Given) -> Work:
    names = given.callbacks if entry.place == 0 else ()
    watchers = make_watchers(entry.folder, (*names, *entry.recipe.train.report_to))
    return open_run(
        entry.asked.resolved,
        entry.rows,
        entry.adapted()[0],
        resume=entry.asked.resume,
        callbacks=watchers,
        say=given.say,
    )


def _alone(entry: _Entry, given: _Given) -> Iterator[tuple[int, RunResult | LuthierError]]:
    """One run by itself, on the base that is there."""
    trainable, draws = entry.adapted()
    try:
        with entry.stack:
            ahead = Ahead.of(entry.recipe, entry.rows, trainable, given.say).timed(entry.rows)
            work = _open(entry, given)
            machine.reset_peak()
            with draws:
                progress = fit(work, resume=entry.asked.resume)
            summary = summarise(entry.asked.resolved, progress, trainable)
            summary["plan"] = ahead.against(summary)
            result: RunResult | LuthierError = close_run(work, entry.rows, summary)
    except RunStopped as error:  # this run alone
        result = error
    except Interrupted:
        raise
    except LuthierError as error:
        result = error
    entry.trainable = None
    yield entry.place, result


def _stacked(entries: Sequence[_Entry], given: _Given, most: int) -> Iterator[tuple[int, RunResult | LuthierError]]:
    """Runs side by side."""
    members, going = [], []
    for entry in entries:
        try:
            work = _open(entry, given)
        except LuthierError as failed:
            yield entry.place, failed
            continue
        members.append(Member(work=work, draws=entry.adapted()[1], resume=entry.asked.resume))
        going.append(entry)
    models: list[Any] = [member.work.trainable.model for member in members]
    side = SideBySide(given.base, models, [member.draws for member in members])
    try:
        error = prove_side_by_side(side)
        given.say(f"{len(members)} runs side by side on one base; a shared pass equals each alone to {error:.1e} nats")
    except ModelError as refused:
        given.say(f"{refused}; they take turns, step by step")
        most = 0
    machine.reset_peak()
    shared = len(members)
    for place, ended in fit_together(members, side, most):
        entry, member = going[place], members[place]
        with entry.stack:
            try:
                if isinstance(ended, LuthierError):
                    raise ended
                summary = summarise(entry.asked.resolved, ended, member.work.trainable, shared)
                result: RunResult | LuthierError = close_run(member.work, entry.rows, summary)
            except LuthierError as failed:
                result = failed
        yield entry.place, result
