# SPDX-License-Identifier: Apache-2.0
"""Several runs at once on one frozen base: the loop of `loop.py` for each, their forward passes together.

Each run keeps everything that makes it a run: its batches, objective, optimiser, clipping, schedule, random numbers,
evaluation, checkpoints, early stop. Shared is only the pass: micro-batches of several runs are one forest, as long as
they hold no more than so many tokens; a run that is alone in a pass goes through its own model, to the bits of a run
that is alone altogether. Runs need not be at the same step, nor have the same number of steps.

A run whose loss, gradient or weights are no longer finite, or that cannot write, is taken out; the others go on. So
they do when one is asked to stop by its file (`presence`).
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from luthier.core.errors import Interrupted, LuthierError
from luthier.engine import checkpoint
from luthier.engine.failures import memory_as_failure
from luthier.engine.loop import begin, choose, evaluate, is_done, save, should_save, stopped, update
from luthier.engine.presence import STOP
from luthier.engine.signals import StopRequest
from luthier.engine.step import Tally, gathered, told
from luthier.kernels.forest import plant
from luthier.models import outputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from luthier.engine.step import StepResult
    from luthier.engine.work import Progress, State, Work
    from luthier.models.draws import Draws
    from luthier.models.side_by_side import SideBySide


@dataclass(frozen=True, kw_only=True)
class Member:
    """One of the runs.

    Attributes:
        work: As for a run alone; its trainable's model is a member of the base (`models.side_by_side`).
        draws: Its random numbers.
        resume: Go on from its newest whole checkpoint where there is one.
    """

    work: Work
    draws: Draws
    resume: bool = False


def fit_together(
    members: Sequence[Member], side: SideBySide, most: int
) -> Iterator[tuple[int, Progress | LuthierError]]:
    """Train all members.

    Args:
        members: In the order of the trunk's.
        side: The trunk over their models.
        most: Tokens that passes of several members hold at most; 0: each always runs alone, in turn.

    Yields:
        Each member's place, as it ends, with its counters, or with what ended it.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; all members that had not ended are saved.
    """
    cohort = _Cohort(members, side, most)
    try:
        with StopRequest() as stop:
            yield from cohort.begin()
            while cohort.states:
                results = cohort.gradients()
                for place, result in results.items():
                    ended = cohort.advance(place, result)
                    if ended is not None:
                        yield place, ended
                if stop.asked and cohort.states:
                    yield from cohort.save_all()
                    received = f"stopped; {len(cohort.states)} runs that share a base are saved"
                    raise Interrupted("runs side by side", received, fix="go on with --resume")
    finally:
        for state in cohort.states.values():
            state.close()


class _Cohort:
    """The members that have not ended, and their steps."""

    def __init__(self, members: Sequence[Member], side: SideBySide, most: int) -> None:
        self.members, self.side, self.most = members, side, most
        self.states: dict[int, State] = {}
        self._saved: dict[int, int] = {}  # the step of each member's newest checkpoint
        self._spent: dict[int, tuple[float, float]] = {}  # seconds of each member's gradient: wall-clock, processor

    def begin(self) -> Iterator[tuple[int, Progress | LuthierError]]:
        """Begin every member or put its checkpoint back; those that cannot, and those that are done, end here."""
        for place, member in enumerate(self.members):
            try:
                with member.draws:
                    state = begin(member.work, resume=member.resume)
                    checkpoint.set_random_state(state.random)
            except LuthierError as error:
                yield place, error
                continue
            self.states[place] = state
            if is_done(member.work, state.progress):
                ended = self._end(place, state.progress)
                yield place, ended

    def gradients(self) -> dict[int, StepResult | LuthierError]:
        """Each member's gradient of its next step, in shared passes where they fit; what went wrong stays its own."""
        places = list(self.states)
        before = {place: self.members[place].draws.state for place in places}
        if len(places) > 1 and self.most:
            try:
                with memory_as_failure(1 + min(state.progress.step for state in self.states.values())):
                    return dict(self._accumulate(places, self.most))
            except LuthierError as error:  # whose it is shows when each is alone
                self.members[places[0]].work.say(f"a shared pass failed ({error}); this step runs one by one")
                for place in places:
                    self.members[place].draws.state = before[place]
                    self._drop_gradients(place)
                found = self._one_by_one(places)
                if not any(isinstance(result, LuthierError) for result in found.values()):
                    self.most = 0  # the pass itself is to blame (memory, for example): it would fail again
                return found
        return self._one_by_one(places)

    def _one_by_one(self, places: Sequence[int]) -> dict[int, StepResult | LuthierError]:
        found: dict[int, StepResult | LuthierError] = {}
        for place in places:
            try:
                with memory_as_failure(self.states[place].progress.step + 1):
                    found |= self._accumulate([place], 0)
            except LuthierError as error:
                found[place] = error
        return found

    def advance(self, place: int, result: StepResult | LuthierError) -> Progress | LuthierError | None:
        """Update, evaluate and save one member; what it ends with, or None while it goes on."""
        member, state = self.members[place], self.states[place]
        progress = state.progress
        try:
            if isinstance(result, LuthierError):
                raise result
            with member.draws:
                with memory_as_failure(progress.step + 1):
                    update(member.work, state, result, self._spent[place])
                    improved = evaluate(member.work, state)
                asked = (member.work.folder / STOP).exists()
                if asked or should_save(member.work, progress, improved):
                    self._save(place)
                if asked and not is_done(member.work, progress):
                    raise stopped(member.work, progress, alone=True)
        except LuthierError as error:
            return self._end(place, error)
        return self._end(place, progress) if is_done(member.work, progress) else None

    def save_all(self) -> Iterator[tuple[int, LuthierError]]:
        """Save every member that goes on; those that cannot be saved end here."""
        for place, state in list(self.states.items()):
            try:
                with self.members[place].draws:
                    if self._saved.get(place) != state.progress.step:
                        self._save(place)
            except LuthierError as error:
                self._end(place, error)
                yield place, error

    def _save(self, place: int) -> None:
        save(self.members[place].work, self.states[place])
        self._saved[place] = self.states[place].progress.step

    def _end(self, place: int, outcome: Progress | LuthierError) -> Progress | LuthierError:
        self._drop_gradients(place)
        state = self.states.pop(place)
        try:
            if not isinstance(outcome, LuthierError):
                choose(self.members[place].work, state)
        except LuthierError as error:
            return error
        finally:
            state.close()
        return outcome

    def _drop_gradients(self, place: int) -> None:
        for parameter in self.states[place].masters.twins.values():
            parameter.grad = None

    def _accumulate(self, places: Sequence[int], most: int) -> dict[int, StepResult]:
        """Add each member's gradient of its next step to its parameters.

        Seconds of a shared pass are divided by tokens, so those of all members add up to what was spent.
        """
        self._spent |= dict.fromkeys(places, (0.0, 0.0))
        tallies: dict[int, Tally] = {}
        for place in places:
            with self._timed({place: 1.0}):
                work = self.members[place].work
                trees = work.batches(self.states[place].progress.step)
                tally = Tally(work.objective, trees, model=work.trainable.model)
                with self.members[place].draws:
                    tally.forests = list(told(tally.forests, work.trainable.model, work.objective, work.refer))
                tallies[place] = tally
        for group, number in _passes(tallies, most):
            tokens = {place: tallies[place].forests[number].num_tokens for place in group}
            total = sum(tokens.values())
            with self._timed({place: count / total for place, count in tokens.items()}):
                self._pass(group, tallies, number)
        return {place: tally.result() for place, tally in tallies.items()}

    def _pass(self, group: Sequence[int], tallies: Mapping[int, Tally], number: int) -> None:
        """Forward and backward of one micro-batch of each member of a group."""
        device = self.side.members[0].device
        with ExitStack() as stack:
            if len(group) == 1:
                member, forest = self.members[group[0]], tallies[group[0]].forests[number].to(device)
                stack.enter_context(member.draws)  # the backward pass may draw again, where layers are recomputed
                parts = {group[0]: outputs(member.work.trainable.model, forest)}
            else:
                trees = [replace(tree, adapter=place) for place in group for tree in tallies[place].trees[number]]
                together = plant(trees)
                logps, shares = self.side.logprobs(together.to(device)), together.shares(len(self.members))
                parts = {place: logps[shares[place].scored] for place in group}
            totals = []
            for place, logps in parts.items():
                tally, objective = tallies[place], self.members[place].work.objective
                loss = objective.loss(logps, gathered(objective, logps, tally.forests[number].to(device)))
                tally.add(loss)
                if loss.total.requires_grad:
                    totals.append(loss.total / tally.units)
            if totals:  # the gradient of each goes to its own member's parameters alone
                torch.autograd.backward(totals)

    def _timed(self, shares: Mapping[int, float]) -> _Timed:
        return _Timed(self._spent, shares)


class _Timed:
    """Adds the seconds spent inside to several members, each its share."""

    def __init__(self, spent: dict[int, tuple[float, float]], shares: Mapping[int, float]) -> None:
        self.spent, self.shares = spent, shares

    def __enter__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        for place, share in self.shares.items():
            before = self.spent[place]
            self.spent[place] = (before[0] + share * wall, before[1] + share * cpu)


def _passes(tallies: Mapping[int, Tally], most: int) -> Iterator[tuple[list[int], int]]:
    """Groups of members and the number of the micro-batch that they pass together.

    Example: with 60, 30 and 80 tokens and at most 100, members 0 and 1 pass together and 2 alone.
    """
    for number in range(max(len(tally.forests) for tally in tallies.values())):
        group: list[int] = []
        held = 0
        for place, tally in tallies.items():
            if number >= len(tally.forests):
                continue
            tokens = tally.forests[number].num_tokens
            if group and held + tokens > most:
                yield group, number
                group, held = [], 0
            group.append(place)
            held += tokens
        if group:
            yield group, number
