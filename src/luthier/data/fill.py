# SPDX-License-Identifier: Apache-2.0
"""The rows of one source -> examples -> text -> tokens -> its store, some thousand at a time."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from luthier.core.types import Completion, Conversation, Judged
from luthier.data import gate
from luthier.data.branches import Grown, branches, grown
from luthier.data.faults import RowFault
from luthier.data.render import raw
from luthier.data.template import no_template
from luthier.data.tokens import NO_SCORED, Tokens, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from luthier.core.types import Example
    from luthier.data.columns import Reading
    from luthier.data.ledger import Account
    from luthier.data.render import Rendered, Renderer
    from luthier.data.source import Part, Say
    from luthier.data.store import Writer
    from luthier.data.vocabulary import Tokenizer, Vocabulary
    from luthier.recipe.schema import Data

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

    def tokenise(chunk: _Chunk) -> list[Tokens | RowFault]:
        nonlocal looked
        tokens = encode(context.vocabulary, chunk.texts)
        if not looked:  # here and not in the caller: a backend that another thread is encoding with cannot be set up
            account.notes += gate.check(chunk.look(tokens), context)
            looked = True
        return tokens

    for chunk, tokens in _one_ahead(tokenise, _chunks(context, parts, reading, account, max_rows)):
        if chunk.counts is None:
            _write(context.data, chunk, tokens, account, writer)
        else:
            _write_judged(context, chunk, tokens, account, writer)
        now = time.monotonic()
        if now - said > SAID_EVERY:
            said = now
            context.say(f"{chunk.part.label}: {account.read:,} rows, {account.read / (now - began):,.0f} a second")


def render(context: Context, examples: Sequence[Example]) -> list[Rendered | RowFault]:
    """Render examples of any kind, in order.

    Raises:
        DataError: There are conversations, and no chat template.
    """
    chats = [example for example in examples if isinstance(example, Conversation)]
    if chats and context.renderer is None:
        raise no_template()
    rendered = iter(context.renderer(chats)) if context.renderer else iter(())
    loss_on = context.data.loss_on
    return [next(rendered) if isinstance(example, Conversation) else raw(example, loss_on) for example in examples]


def fitted(item: Tokens, data: Data) -> Tokens | RowFault:
    """Hold one row to ``max_length``."""
    if not item.scored.any():
        return RowFault(NO_SCORED)
    if len(item.ids) <= data.max_length:
        return item
    if data.truncation == "refuse":
        return RowFault("longer than max_length", f"{len(item.ids):,} tokens")
    cut = Tokens(ids=item.ids[: data.max_length], scored=item.scored[: data.max_length], closed=False)
    return cut if cut.scored.any() else RowFault("answer cut away by max_length", f"{len(item.ids):,} tokens")


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Some thousand rows of one part, rendered.

    Attributes:
        part: Where they are from.
        index: Its number.
        numbers: Number of each row.
        rows: What each row is.
        counts: Examples of each row, one for each judged answer; None where each row is one example.
        examples: What is rendered.
        texts: What became of it.
    """

    part: Part
    index: int
    numbers: Sequence[int]
    rows: Sequence[Example | Judged]
    counts: Sequence[int] | None
    examples: Sequence[Example]
    texts: Sequence[Rendered | RowFault]

    def look(self, tokens: Sequence[Tokens | RowFault]) -> gate.Look:
        many = self.counts or [1] * len(self.numbers)
        some = sum(many[: gate.ROWS])
        names = [f"{self.part.label}:{number}" for number in self.numbers]
        if self.counts:
            names = [f"{name}, answer {i}" for name, n in zip(names, many, strict=True) for i in range(1, n + 1)]
        return gate.Look(rows=names[:some], examples=self.examples[:some], tokens=tokens[:some])


def _chunks(
    context: Context, parts: Sequence[Part], reading: Reading, account: Account, max_rows: int | None
) -> Iterator[_Chunk]:
    """Read and render the rows of all parts; faults go to the account."""
    for index, part in enumerate(parts):
        every = part.rows() if max_rows is None else islice(part.rows(), max(0, max_rows - account.rows))
        for numbers, rows in _examples(every, part, reading, account):
            plain = [row for row in rows if not isinstance(row, Judged)]
            apart = [branches(row) for row in rows if isinstance(row, Judged)]
            examples = [branch for row in apart for branch in row] if apart else plain
            counts = [len(row) for row in apart] if apart else None
            texts = render(context, examples)
            yield _Chunk(
                part=part, index=index, numbers=numbers, rows=rows, counts=counts, examples=examples, texts=texts
            )


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
) -> Iterator[tuple[list[int], list[Example | Judged]]]:
    """Turn rows into examples, some thousand at a time; a row may hold several."""
    numbers: list[int] = []
    examples: list[Example | Judged] = []
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


def _write(data: Data, chunk: _Chunk, tokens: Sequence[Tokens | RowFault], account: Account, writer: Writer) -> None:
    ids, scored, kept = [], [], []
    for number, item in zip(chunk.numbers, tokens, strict=True):
        row = item if isinstance(item, RowFault) else fitted(item, data)
        if isinstance(row, RowFault):
            account.refuse(f"{chunk.part.label}:{number}", row)
            continue
        assert isinstance(item, Tokens)
        account.truncated += len(row.ids) < len(item.ids)
        account.cut_tokens += len(item.ids) - len(row.ids)
        account.tokens += len(row.ids)
        account.scored_tokens += int(np.count_nonzero(row.scored))
        ids.append(row.ids)
        scored.append(row.scored)
        kept.append(number)
    account.kept += len(kept)
    writer.add(ids, scored, kept, chunk.index)


def _write_judged(
    context: Context, chunk: _Chunk, tokens: Sequence[Tokens | RowFault], account: Account, writer: Writer
) -> None:
    kept: list[Grown] = []
    numbers = []
    waiting = iter(tokens)
    for number, judged, many in zip(chunk.numbers, chunk.rows, chunk.counts or (), strict=True):
        assert isinstance(judged, Judged)
        row = grown(judged, list(islice(waiting, many)), context.data, context.vocabulary.bos)
        if isinstance(row, RowFault):
            account.refuse(f"{chunk.part.label}:{number}", row)
            continue
        account.truncated += row.cut > 0
        account.cut_tokens += row.cut
        account.tokens += len(row.ids)
        account.scored_tokens += int(np.count_nonzero(row.scored))
        account.answers += many
        kept.append(row)
        numbers.append(number)
    account.kept += len(kept)
    writer.add([row.ids for row in kept], [row.scored for row in kept], numbers, chunk.index, judged=kept)


def _characters(example: Example | Judged) -> int:
    if isinstance(example, Judged):
        return sum(map(_characters, branches(example)))
    if isinstance(example, Conversation):
        return sum(len(message.content) for message in example.messages)
    if isinstance(example, Completion):
        return len(example.prompt) + len(example.completion)
    return len(example.text)
