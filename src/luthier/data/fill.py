# SPDX-License-Identifier: Apache-2.0
"""The rows of one source -> examples -> text -> tokens -> its store, some thousand at a time."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np

from luthier.core import registry
from luthier.core.tasks import Labelled, Question, Tagged, Texts
from luthier.core.types import Completion, Conversation, Judged
from luthier.data.branches import branches
from luthier.data.faults import RowFault
from luthier.data.gate import ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from luthier.core.tasks import RowKind, Task
    from luthier.core.types import Example
    from luthier.data.columns import Reading
    from luthier.data.labelling import Numbers
    from luthier.data.ledger import Account
    from luthier.data.render import Renderer
    from luthier.data.source import Part, Say
    from luthier.data.store import Row, Writer
    from luthier.data.vocabulary import Tokenizer, Vocabulary
    from luthier.recipe.schema import Data

    AnyExample = Example | Judged | Labelled | Tagged | Question | Texts

T = TypeVar("T")
CHUNK_ROWS, CHUNK_CHARACTERS = 1024, 1 << 20  # what is held at a time, whichever comes first
SAID_EVERY = 10.0  # seconds between lines about progress


@dataclass(frozen=True, kw_only=True)
class Context:
    """What all sources of one preparation share."""

    data: Data
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    renderer: Renderer | None
    say: Say
    task: Task = "CAUSAL_LM"
    numbers: Numbers | None = None


class Kind(Protocol):
    """What a file in ``data/kinds`` defines.

    Attributes:
        BRANCHED: Whether a row is a prompt (or nothing) and what stands below it.
    """

    BRANCHED: bool

    def arrays(self, context: Context, columns: frozenset[str]) -> tuple[str, ...]:
        """The arrays of its store besides tokens and branches, names of `store.TOLD`."""

    def texts(self, context: Context, examples: Sequence[Any]) -> Sequence[Any]:
        """What is to be tokenised."""

    def tokens(self, context: Context, texts: Sequence[Any]) -> Sequence[Any]:
        """The same as tokens; done beside the next chunk's reading."""

    def check(self, context: Context, names: Sequence[str], examples: Sequence[Any], items: Sequence[Any]) -> list[str]:
        """Look at the first rows as tokens, and note what is worth knowing.

        Args:
            context: Recipe and tokenizer.
            names: Name of each row.
            examples: What was read.
            items: What :meth:`tokens` made, of more rows than these.

        Raises:
            DataError: They would train a broken model.
        """

    def rows(self, context: Context, examples: Sequence[Any], items: Sequence[Any]) -> list[list[Row] | RowFault]:
        """The trees of each example: one, or several where it is cut into windows."""


def kind_of_rows(kind: RowKind, task: Task) -> tuple[str, Kind]:
    """Which file of ``data/kinds`` makes trees of such rows, by name."""
    name = "source_target" if kind == "plain" and task == "SEQ_2_SEQ_LM" else kind
    return name, cast("Kind", registry.get("data.kinds", name))


def fill(
    context: Context,
    parts: Sequence[Part],
    reading: Reading,
    account: Account,
    writer: Writer,
    *,
    max_rows: int | None = None,
) -> None:
    """Read, render, tokenise and write the rows of one source.

    Args:
        context: Recipe, tokenizer, template.
        parts: Where the rows are.
        reading: How they are read.
        account: Receives the counts.
        writer: Receives the tokens.
        max_rows: Read the first rows only.

    Raises:
        DataError: A part cannot be read, or the token gate finds a fault.
    """
    began = said = time.monotonic()
    looked = False
    _, kind = kind_of_rows(reading.kind, context.task)

    def made(chunk: _Chunk) -> list[list[Row] | RowFault]:
        nonlocal looked
        items = kind.tokens(context, chunk.texts)
        if not looked:  # here and not in the caller: a backend that another thread is encoding with cannot be set up
            names = [f"{chunk.part.label}:{number}" for number in chunk.numbers[:ROWS]]
            account.notes += kind.check(context, names, chunk.examples[:ROWS], items)
            looked = True
        return kind.rows(context, chunk.examples, items)

    for chunk, rows in _one_ahead(made, _chunks(context, kind, parts, reading, account, max_rows)):
        _write(chunk, rows, account, writer)
        now = time.monotonic()
        if now - said > SAID_EVERY:
            said = now
            context.say(f"{chunk.part.label}: {account.read:,} rows, {account.read / (now - began):,.0f} a second")


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Some thousand rows of one part.

    Attributes:
        part: Where they are from.
        index: Its number.
        numbers: Number of each row.
        examples: What each row is.
        texts: What is to be tokenised.
    """

    part: Part
    index: int
    numbers: Sequence[int]
    examples: Sequence[AnyExample]
    texts: Sequence[Any]


def _chunks(
    context: Context, kind: Kind, parts: Sequence[Part], reading: Reading, account: Account, max_rows: int | None
) -> Iterator[_Chunk]:
    """Read and render the rows of all parts; faults go to the account."""
    for index, part in enumerate(parts):
        every = part.rows() if max_rows is None else islice(part.rows(), max(0, max_rows - account.rows))
        for numbers, examples in _examples(every, part, reading, account):
            texts = kind.texts(context, examples)
            yield _Chunk(part=part, index=index, numbers=numbers, examples=examples, texts=texts)


def _one_ahead(function: Callable[[_Chunk], T], chunks: Iterator[_Chunk]) -> Iterator[tuple[_Chunk, T]]:
    """Apply a function in another thread while the next chunk is made in this one.

    Tokenising is Rust and lets other threads run; reading and rendering, a quarter of the work, go on beside it.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: tuple[_Chunk, Future[T]] | None = None
        for chunk in chunks:
            following = (chunk, pool.submit(function, chunk))
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def _examples(
    rows: Iterator[tuple[int, Any]], part: Part, reading: Reading, account: Account
) -> Iterator[tuple[list[int], list[AnyExample]]]:
    """Turn rows into examples, some thousand at a time; a row may hold several."""
    numbers: list[int] = []
    examples: list[AnyExample] = []
    size = 0
    for number, row in rows:
        account.rows += 1
        try:
            if isinstance(row, RowFault):
                raise row
            found = reading.read(row, reading.columns)
        except RowFault as fault:
            account.read += 1
            account.refuse(f"{part.label}:{number}", fault)
            continue
        some = found if isinstance(found, tuple) else (found,)
        account.read += len(some)
        numbers += [number] * len(some)
        examples += some
        size += sum(map(_characters, some))
        if len(examples) >= CHUNK_ROWS or size >= CHUNK_CHARACTERS:
            yield numbers, examples
            numbers, examples, size = [], [], 0
    if examples:
        yield numbers, examples


def _write(chunk: _Chunk, made: Sequence[list[Row] | RowFault], account: Account, writer: Writer) -> None:
    kept: list[Row] = []
    numbers = []
    for number, rows in zip(chunk.numbers, made, strict=True):
        if isinstance(rows, RowFault):
            account.refuse(f"{chunk.part.label}:{number}", rows)
            continue
        account.kept += 1
        account.truncated += any(row.cut for row in rows)
        for row in rows:
            account.windows += 1
            account.cut_tokens += row.cut
            account.lost += row.lost
            account.tokens += len(row.ids)
            account.scored_tokens += int(np.count_nonzero(row.scored))
            if row.labels is not None and not row.targets:  # of a question they only say which tokens can answer
                account.labelled += int(np.count_nonzero(row.labels >= 0))
            account.answers += len(row.grades)
        kept += rows
        numbers += [number] * len(rows)
    writer.add(kept, numbers, chunk.index)


def _characters(example: AnyExample) -> int:
    if isinstance(example, Judged):
        return sum(map(_characters, branches(example)))
    if isinstance(example, Conversation):
        return sum(len(message.content) for message in example.messages)
    if isinstance(example, Completion):
        return len(example.prompt) + len(example.completion)
    if isinstance(example, Tagged):
        return sum(map(len, example.words))
    if isinstance(example, Question):
        return len(example.question) + len(example.context)
    if isinstance(example, Texts):
        return sum(map(len, example.texts))
    return len(example.text) + len((example.pair or "") if isinstance(example, Labelled) else "")
