# SPDX-License-Identifier: Apache-2.0
"""From trees back to rows: what a tree's row was, and which characters or words its tokens stand for.

The store holds numbers only. Where an evaluation needs words, the text of a predicted span or the words that tags
belong to, the rows are read again from their files and tokenised by the functions that made the trees.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import DataError
from luthier.core.tasks import IGNORED, Question, Tagged
from luthier.core.types import Completion, Conversation
from luthier.data.encoded import Encoded
from luthier.data.faults import RowFault
from luthier.data.fill import kind_of_rows
from luthier.data.kinds.tagged import first_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from luthier.data.columns import Reading
    from luthier.data.fill import AnyExample, Context
    from luthier.data.prepare import Opening, Prepared
    from luthier.data.store import Row, Store

    Ints = npt.NDArray[np.int64]

HELD = 256  # rows that are tokenised at a time


@dataclass(frozen=True, kw_only=True)
class Window:
    """What the L tokens of one tree stand for.

    Attributes:
        begins: First character in the context that each token covers, int64 of shape [L]; -1 for tokens of none. Of
            tagged words: in the words joined by spaces.
        ends: Likewise its end.
        words: The word that each token carries the tag of, int64 of shape [L]; -1 for tokens without a label.
    """

    begins: Ints
    ends: Ints
    words: Ints


@dataclass(frozen=True, kw_only=True)
class Original:
    """A row as it was read, and the trees that it became.

    Attributes:
        name: ``part:number``, the same as `Tree.row` of its trees.
        example: What its format read.
        references: All right answers as texts, the one that trains first; empty where a row has no text to be right.
        trees: Their numbers in `Rows`: one, or one for each window.
        windows: Of each tree, where the row is tagged words or a question; else empty.
    """

    name: str
    example: AnyExample
    references: tuple[str, ...]
    trees: range
    windows: tuple[Window, ...]

    def span(self, window: int, first: int, last: int) -> str:
        """The characters of the context from one token to another of a question's window.

        Args:
            window: Which of its windows.
            first: The first token; like the last one it must be a token of the context.
            last: The last one.
        """
        assert isinstance(self.example, Question)
        begin, end = int(self.windows[window].begins[first]), int(self.windows[window].ends[last])
        if begin < 0 or end < 0:
            raise ValueError(f"{self.name}: tokens {first} to {last} are not of the context")
        return self.example.context[begin:end].strip()


def originals(prepared: Prepared) -> Iterator[Original]:
    """Read the rows of prepared trees again, in the order of the trees.

    Raises:
        DataError: The files are not what they were when the trees were made.
    """
    for place, opening in enumerate(prepared.openings):
        store, first = prepared.rows.stores[place], int(prepared.rows.starts[place])
        at = 0
        for name, read, example, made, item in _again(prepared.context, opening, store):
            trees = range(first + at, first + at + len(made))
            if any(not np.array_equal(row.ids, _ids(store, at + i)) for i, row in enumerate(made)):
                raise _changed(name)
            yield Original(
                name=name,
                example=example,
                references=_references(opening.reading, read, example),
                trees=trees,
                windows=tuple(window_of(example, item, row) for row in made) if isinstance(item, Encoded) else (),
            )
            at += len(made)
        if at != len(store):
            raise _changed(opening.source.path)


def _again(
    context: Context, opening: Opening, store: Store
) -> Iterator[tuple[str, Mapping[str, Any], AnyExample, list[Row], Any]]:
    """Yield each example that was kept: its name, its row in the file, the example, its trees, its tokens."""
    _, kind = kind_of_rows(opening.reading.kind, context.task)
    every = _kept(opening, store)
    while some := list(islice(every, HELD)):
        examples = [example for _, _, example in some]
        items = kind.tokens(context, kind.texts(context, examples))
        made = kind.rows(context, examples, items)
        each = items if len(items) == len(some) else [None] * len(some)  # of branches there are more tokens than rows
        for (name, row, example), rows, item in zip(some, made, each, strict=True):
            if not isinstance(rows, RowFault):
                yield name, row, example, rows, item


def _kept(opening: Opening, store: Store) -> Iterator[tuple[str, Mapping[str, Any], AnyExample]]:
    """Yield the examples of all rows of which the store has a tree."""
    there = set(zip(store.parts.tolist(), store.numbers.tolist(), strict=True))
    reading = opening.reading
    for place, part in enumerate(opening.parts):
        for number, row in part.rows():
            if (place, number) not in there or isinstance(row, RowFault):
                continue
            found = reading.read(row, reading.columns)
            for example in found if isinstance(found, tuple) else (found,):
                yield f"{part.label}:{number}", row, example


def window_of(example: AnyExample, item: Encoded, row: Row) -> Window:
    """What the tokens of one tree stand for.

    Args:
        example: Tagged words or a question.
        item: Its tokens, uncut.
        row: One of the trees that it became.
    """
    side = 1 if isinstance(example, Question) else 0
    begins, ends, words = (np.full(len(item.ids), -1, np.int64) for _ in range(3))
    begins[item.sides == side], ends[item.sides == side] = item.characters(side)
    if isinstance(example, Tagged):
        firsts = first_tokens(example.words, item)
        there = firsts >= 0
        words[np.flatnonzero(item.sides == 0)[firsts[there]]] = np.flatnonzero(there)
    assert row.places is not None
    carried = words[row.places] if row.labels is None else np.where(row.labels == IGNORED, -1, words[row.places])
    return Window(begins=begins[row.places], ends=ends[row.places], words=carried)


def _references(reading: Reading, row: Mapping[str, Any], example: AnyExample) -> tuple[str, ...]:
    if reading.references is not None:
        return reading.references(row, reading.columns)
    if isinstance(example, Conversation):
        return (example.messages[-1].content,)
    return (example.completion,) if isinstance(example, Completion) else ()


def _ids(store: Store, place: int) -> npt.NDArray[Any]:
    return store.tokens[store.offsets[place] : store.offsets[place + 1]] if place < len(store) else np.zeros(0)


def _changed(where: str) -> DataError:
    return DataError(where, "other rows than when its tokens were made", fix="prepare the data again")
