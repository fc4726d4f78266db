# SPDX-License-Identifier: Apache-2.0
"""The rows of all sources, in order: what training draws from, and what may stand in its place."""

from __future__ import annotations

import math
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

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
        stores: One for each source, all of one kind.

    Attributes:
        lengths: Tokens of each row, int32 of shape [N]; of a judged row those of its tree.
        scored: Scored tokens of each row, int32 of shape [N].
        starts: First row of each source and the number of rows, int64 of shape [sources + 1].
        kind: Which file of ``data/kinds`` made them.
        judged: Whether a row is branches that belong together (judged answers, texts): one example, never packed.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = tuple(stores)
        self.lengths = np.concatenate([np.diff(store.offsets).astype(np.int32) for store in stores])
        self.scored = np.concatenate([np.asarray(store.counts) for store in stores])
        self.starts = np.cumsum([0, *map(len, stores)])
        self.kind: str = stores[0].about.get("kind", "plain")
        self.judged = self.kind in ("judged", "texts")

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def windowed(self) -> bool:
        """Whether a row of a file is several trees, windows of it, which stand one after the other."""
        same = [(np.diff(store.numbers) == 0) & (np.diff(store.parts) == 0) for store in self.stores]
        return not self.judged and any(map(np.any, same))

    @cached_property
    def answers(self) -> Array:
        """Answers of each row, int64 of shape [N]; 1 for one that is one piece."""
        if not self.stores[0].branches:
            return np.ones(len(self), np.int64)
        return np.concatenate([np.diff(store.branches["answers"]) for store in self.stores])

    @cached_property
    def prompts(self) -> Array:
        """Tokens of each row's prompt or source, int64 of shape [N]; 0 for a row that is one piece."""
        if not self.stores[0].branches:
            return np.zeros(len(self), np.int64)
        parts = []
        for store in self.stores:
            ends = np.concatenate([[0], np.cumsum(store.branches["answer_lengths"], dtype=np.int64)])
            parts.append(np.diff(store.offsets) - np.diff(ends[store.branches["answers"]]))
        return np.concatenate(parts)

    @cached_property
    def first_answers(self) -> Array:
        """Tokens of each judged row's first answer, int64 of shape [N]."""
        parts = [store.branches["answer_lengths"][store.branches["answers"][:-1]] for store in self.stores]
        return np.concatenate(parts).astype(np.int64)

    def first_of_grades(self, source: int) -> list[int]:
        """The first row of a source with each grade, and with the lowest and highest score; of plain rows the first."""
        store, first = self.stores[source], int(self.starts[source])
        if not self.judged:
            return [first] if len(store) else []
        _, places = np.unique(store.branches["grades"], return_index=True)
        scores = store.branches["scores"]
        if not np.isnan(scores).all():
            places = np.concatenate([[np.nanargmin(scores), np.nanargmax(scores)], places])
        found = np.searchsorted(store.branches["answers"], places, side="right") - 1
        return [first + row for row in dict.fromkeys(found.tolist())]

    def tree(self, row: int) -> Tree:
        """Return one row: a single segment, or a prompt (or nothing) with its branches as children.

        Raises:
            IndexError: There is no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        source = int(np.searchsorted(self.starts, row, side="right")) - 1
        store, place = self.stores[source], row - int(self.starts[source])
        here = slice(int(store.offsets[place]), int(store.offsets[place + 1]))
        ids, scored = store.tokens[here], store.scored[here]
        labels, types = (None if name not in store.told else store.told[name][here] for name in ("labels", "types"))
        whole = Segment(ids=ids, scored=scored, labels=labels, types=types)
        name = self.name(row)
        if not store.branches:
            targets = tuple(store.told["targets"][place].tolist()) if "targets" in store.told else ()
            return Tree(segments=(whole,), targets=targets, row=name)
        some = slice(int(store.branches["answers"][place]), int(store.branches["answers"][place + 1]))
        lengths = store.branches["answer_lengths"][some].tolist()
        ends = np.cumsum([0, len(ids) - sum(lengths), *lengths]).tolist()
        segments = tuple(Segment(ids=ids[a:b], scored=scored[a:b]) for a, b in pairwise(ends))
        parents = (-1, *[0] * len(lengths))
        if not self.judged:  # a source and its target, which nobody judged
            return Tree(segments=segments, parents=parents, row=name)
        scores = store.branches["scores"][some].tolist()
        return Tree(
            segments=segments,
            parents=parents,
            grades=(math.nan, *store.branches["grades"][some].tolist()),
            scores=() if any(map(math.isnan, scores)) else (math.nan, *scores),
            row=name,
        )

    def origin(self, row: int) -> tuple[int, int, int]:
        """Where one row is from: its source, the part of it, and the number of the row there.

        Raises:
            IndexError: There is no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        source = int(np.searchsorted(self.starts, row, side="right")) - 1
        store, place = self.stores[source], row - int(self.starts[source])
        return source, int(store.parts[place]), int(store.numbers[place])

    def name(self, row: int) -> str:
        """What messages call one row: ``part:number``. Windows of one long row have the same name."""
        source, part, number = self.origin(row)
        return f"{self.stores[source].about['parts'][part]}:{number}"
