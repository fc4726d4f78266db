# SPDX-License-Identifier: Apache-2.0
"""The rows of all sources, in order: what training draws from, and what may stand in its place."""

from __future__ import annotations

import math
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from luthier.core.errors import DataError
from luthier.core.types import Segment, Tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from luthier.data.store import Store

    Array = npt.NDArray[Any]


class Drawn(Protocol):
    """What batches are drawn from: :class:`Rows`, or what wraps it and adds to its trees.

    A wrapper keeps the number of rows and their order; its lengths are those of the trees that it gives.
    """

    def __len__(self) -> int: ...

    def tree(self, row: int) -> Tree:
        """Return one row."""

    @property
    def lengths(self) -> Array:
        """Tokens of each row's tree, int32 of shape [N]."""

    @property
    def scored(self) -> Array:
        """Scored tokens of each row that train, int32 of shape [N]."""

    @property
    def starts(self) -> Array:
        """First row of each source and the number of rows, int64 of shape [sources + 1]."""

    @property
    def judged(self) -> bool:
        """Whether a row is a prompt with judged answers: an example of its own, never packed."""

    @property
    def answers(self) -> Array:
        """Answers of each row, int64 of shape [N]."""

    @property
    def prompts(self) -> Array:
        """Tokens of each row's shared prompt, int64 of shape [N]."""


class Rows:
    """The rows of all sources.

    Args:
        stores: One for each source.

    Attributes:
        lengths: Tokens of each row, int32 of shape [N]; of a judged row those of its tree.
        scored: Scored tokens of each row, int32 of shape [N].
        starts: First row of each source and the number of rows, int64 of shape [sources + 1].
        judged: Whether rows are prompts with judged answers.

    Raises:
        DataError: Some sources hold judged rows, and some do not.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = tuple(stores)
        self.lengths = np.concatenate([np.diff(store.offsets).astype(np.int32) for store in stores])
        self.scored = np.concatenate([np.asarray(store.counts) for store in stores])
        self.starts = np.cumsum([0, *map(len, stores)])
        self.judged = bool(stores[0].judged)
        if any(bool(store.judged) is not self.judged for store in stores):
            raise DataError("data", "some sources hold judged answers, and some do not", "one kind a run", "split them")

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def answers(self) -> Array:
        """Answers of each row, int64 of shape [N]; 1 for a plain one, which is all answer."""
        if not self.judged:
            return np.ones(len(self), np.int64)
        return np.concatenate([np.diff(store.judged["answers"]) for store in self.stores])

    @cached_property
    def prompts(self) -> Array:
        """Tokens of each row's shared prompt, int64 of shape [N]; 0 for a plain one."""
        if not self.judged:
            return np.zeros(len(self), np.int64)
        parts = []
        for store in self.stores:
            ends = np.concatenate([[0], np.cumsum(store.judged["answer_lengths"], dtype=np.int64)])
            parts.append(np.diff(store.offsets) - np.diff(ends[store.judged["answers"]]))
        return np.concatenate(parts)

    @cached_property
    def first_answers(self) -> Array:
        """Tokens of each judged row's first answer, int64 of shape [N]."""
        parts = [store.judged["answer_lengths"][store.judged["answers"][:-1]] for store in self.stores]
        return np.concatenate(parts).astype(np.int64)

    def first_of_grades(self, source: int) -> list[int]:
        """The first row of a source with each grade that its answers have; of plain rows the first."""
        store, first = self.stores[source], int(self.starts[source])
        if not self.judged:
            return [first] if len(store) else []
        _, places = np.unique(store.judged["grades"], return_index=True)
        found = np.searchsorted(store.judged["answers"], places, side="right") - 1
        return [first + row for row in dict.fromkeys(found.tolist())]

    def tree(self, row: int) -> Tree:
        """Return one row: a single segment, or a prompt with its judged answers as children.

        Raises:
            IndexError: There is no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        source = int(np.searchsorted(self.starts, row, side="right")) - 1
        store, place = self.stores[source], row - int(self.starts[source])
        here = slice(int(store.offsets[place]), int(store.offsets[place + 1]))
        name = f"{store.about['parts'][store.parts[place]]}:{store.numbers[place]}"
        ids, scored = store.tokens[here], store.scored[here]
        if not self.judged:
            return Tree(segments=(Segment(ids=ids, scored=scored),), row=name)
        some = slice(int(store.judged["answers"][place]), int(store.judged["answers"][place + 1]))
        lengths = store.judged["answer_lengths"][some].tolist()
        ends = np.cumsum([0, len(ids) - sum(lengths), *lengths]).tolist()
        scores = store.judged["scores"][some].tolist()
        return Tree(
            segments=tuple(Segment(ids=ids[a:b], scored=scored[a:b]) for a, b in pairwise(ends)),
            parents=(-1, *[0] * len(lengths)),
            grades=(math.nan, *store.judged["grades"][some].tolist()),
            scores=() if any(map(math.isnan, scores)) else (math.nan, *scores),
            row=name,
        )
