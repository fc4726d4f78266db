# SPDX-License-Identifier: Apache-2.0
"""Which rows each optimiser step sees: a pure function of the seed and the step, so resuming needs no loader state."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt

from luthier.core.errors import DataError
from luthier.core.types import unshared
from luthier.data.pack import Bins, best_fit, in_order
from luthier.data.rows import Rows

if TYPE_CHECKING:
    from luthier.core.types import Tree
    from luthier.data.rows import Drawn
    from luthier.recipe.schema import Data, Train

KEPT = 2  # epochs whose plan stays in memory


class Batches:
    """The training batches of a run.

    Each epoch draws its rows by the sources' weights, shuffles them, packs them, shuffles the bins and cuts them into
    steps. The last step of an epoch may be smaller; nothing is dropped. Judged rows are not packed: each is an example.

    Args:
        rows: What to draw from.
        data: Packing, ``max_length``, shuffling, weights.
        train: Batch size, accumulation, epochs or steps.
        seed: With the epoch's number it decides everything.
        rank: Which share of each step this process takes (`torchrun`).
        world: How many processes share a step; each adds its batch to it.

    Attributes:
        rows: What is drawn from. A wrapper that adds to the trees (what a reference says of them) may take its place at
            any time; it must be a :class:`luthier.data.rows.Drawn` of the same rows in the same order.
        total_steps: Optimiser steps of the run.

    Raises:
        DataError: The weights leave no row in an epoch.
    """

    def __init__(self, rows: Drawn, data: Data, train: Train, seed: int, *, rank: int = 0, world: int = 1) -> None:
        self.rows: Drawn = rows
        self.data, self.seed, self.rank, self.world = data, seed, rank, world
        self.packing = data.packing and not rows.judged
        self.micro = train.per_device_train_batch_size
        self.per_step = self.micro * train.gradient_accumulation_steps * world
        self.weights = [source.weight for source in data.train]
        if len(self.weights) != len(rows.starts) - 1:
            raise ValueError(f"{len(self.weights)} sources in data.train, {len(rows.starts) - 1} in rows")
        self._plans: OrderedDict[int, Bins] = OrderedDict()
        self._steps: list[int] = []  # optimiser steps of each epoch
        # with whole weights every epoch holds the same lengths, so best fit gives the same number of bins
        # (it looks at the lengths alone: the order of equal ones changes which rows meet, not how many bins there are)
        self._same_steps = all(weight.is_integer() for weight in self.weights)
        self.total_steps = train.max_steps if train.max_steps > 0 else self._steps_for(train.num_train_epochs)

    def step(self, number: int) -> list[list[Tree]]:
        """Return the micro-batches of one optimiser step, or this rank's share of them.

        Args:
            number: Step, from 0.

        Returns:
            At most ``gradient_accumulation_steps`` lists of trees. With packing the trees of one list fill
            ``per_device_train_batch_size`` bins of ``max_length`` tokens, without it they are that many examples.
            Ranks take turns, bin by bin, so the last step of an epoch is shared as evenly as the others.
        """
        epoch, place = self._find(number)
        bins = self._plan(epoch)[place * self.per_step : (place + 1) * self.per_step][self.rank :: self.world]
        share = self.data.share_prompts
        return [_trees(self.rows, bins[at : at + self.micro], share) for at in range(0, len(bins), self.micro)]

    def visited(self) -> npt.NDArray[np.int64]:
        """Return the rows that the steps of the run draw, sorted, each once: what a reference must be asked about."""
        stop, partial = self._find(self.total_steps)
        if stop and self._same_steps:  # every epoch draws all that it ever draws
            return self._some(0)
        found = [self._some(epoch) for epoch in range(stop)]
        found += self._plan(stop)[: partial * self.per_step] if partial else []
        return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)

    def largest(self) -> int:
        """Return the tokens of the largest micro-batch that can occur."""
        lengths = self.rows.lengths
        if self.rows.judged and not self.data.share_prompts:
            lengths = lengths + self.rows.prompts * (self.rows.answers - 1)
        if self.packing:
            return min(self.micro * self.data.max_length, int(lengths.sum()))
        return int(np.sort(lengths)[-self.micro :].sum())

    def epoch(self, number: int) -> float:
        """Return how many epochs are done after so many steps.

        Example: with 4 steps an epoch, ``epoch(6)`` is 1.5.
        """
        epoch, place = self._find(number)
        return epoch + place / self._steps_of(epoch)

    def _steps_for(self, epochs: float) -> int:
        whole, part = int(epochs), epochs % 1
        steps = self._steps_of(0) * whole if self._same_steps else sum(map(self._steps_of, range(whole)))
        return steps + (math.ceil(part * self._steps_of(whole)) if part else 0)

    def _find(self, number: int) -> tuple[int, int]:
        """Return the epoch that a step falls into, and its place there."""
        if self._same_steps:
            return divmod(number, self._steps_of(0))
        epoch = 0
        while number >= self._steps_of(epoch):
            number -= self._steps_of(epoch)
            epoch += 1
        return epoch, number

    def _steps_of(self, epoch: int) -> int:
        epoch = 0 if self._same_steps else epoch
        while len(self._steps) <= epoch:
            self._steps.append(math.ceil(len(self._plan(len(self._steps))) / self.per_step))
        return self._steps[epoch]

    def _plan(self, epoch: int) -> Bins:
        """Return the rows of each bin (or of each example) of one epoch, in training order."""
        if epoch not in self._plans:
            self._plans[epoch] = self._planned(epoch)
            while len(self._plans) > KEPT:
                self._plans.popitem(last=False)
        self._plans.move_to_end(epoch)
        return self._plans[epoch]

    def _planned(self, epoch: int) -> Bins:
        random = self._random(epoch)
        drawn = self._drawn(random)
        if not self.packing:
            return list((random.permutation(drawn) if self.data.shuffle else drawn).reshape(-1, 1))
        if not self.data.shuffle:
            return [drawn[places] for places in in_order(self.rows.lengths[drawn], self.data.max_length)]
        drawn = random.permutation(drawn)
        bins = best_fit(self.rows.lengths[drawn], self.data.max_length)
        return [drawn[bins[place]] for place in random.permutation(len(bins))]

    def _some(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the rows of a whole epoch, sorted, each once."""
        return np.unique(self._drawn(self._random(epoch)))

    def _random(self, epoch: int) -> np.random.Generator:
        # Philox is counter-based: neighbouring (seed, epoch) keys give unrelated streams
        return np.random.Generator(np.random.Philox(key=[self.seed, epoch]))

    def _drawn(self, random: np.random.Generator) -> npt.NDArray[np.int64]:
        """Draw the rows of an epoch: each source as often as its weight says, in file order."""
        drawn = []
        for weight, start, stop in zip(self.weights, self.rows.starts, self.rows.starts[1:], strict=False):
            every = np.arange(start, stop, dtype=np.int64)
            some = round((weight % 1) * len(every))
            extra = np.sort(random.choice(every, some, replace=False)) if some else every[:0]
            drawn += [every] * int(weight) + [extra]
        rows = np.concatenate(drawn)
        if not len(rows):
            raise DataError(
                "data.train", "the weights leave no row in an epoch", "a weight of 1 uses each row once", "raise them"
            )
        return rows


class EvalBatches(Sequence[Sequence["Tree"]]):
    """Evaluation batches, made as they are asked for."""

    def __init__(self, rows: Drawn, bins: Bins, size: int, *, share_prompts: bool = True) -> None:
        self.rows: Drawn = rows
        self.bins, self.size, self.share_prompts = bins, size, share_prompts

    def __len__(self) -> int:
        return -(-len(self.bins) // self.size)

    @overload
    def __getitem__(self, place: int) -> list[Tree]: ...
    @overload
    def __getitem__(self, place: slice) -> list[list[Tree]]: ...
    def __getitem__(self, place: int | slice) -> list[Tree] | list[list[Tree]]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        return _trees(self.rows, self.bins[place * self.size : (place + 1) * self.size], self.share_prompts)


def eval_batches(rows: Drawn, data: Data, train: Train) -> EvalBatches:
    """Return batches that hold every row once: packed best fit where ``data.packing``, else (and judged rows) in order.

    Windows of one row stay one after the other: an entity is read over their border.

    Args:
        rows: What to evaluate on.
        data: Packing, ``max_length`` and ``share_prompts``.
        train: ``per_device_eval_batch_size``.
    """
    if data.packing and isinstance(rows, Rows) and rows.windowed:
        bins = in_order(rows.lengths, data.max_length)
    elif data.packing and not rows.judged:
        bins = [np.sort(places) for places in best_fit(rows.lengths, data.max_length)]
        bins.sort(key=lambda places: int(places[0]))
    else:
        bins = list(np.arange(len(rows), dtype=np.int64).reshape(-1, 1))
    return EvalBatches(rows, bins, train.per_device_eval_batch_size, share_prompts=data.share_prompts)


def _trees(rows: Drawn, bins: Bins, share_prompts: bool) -> list[Tree]:
    trees = [rows.tree(int(row)) for places in bins for row in places]
    return trees if share_prompts else [unshared(tree) for tree in trees]
