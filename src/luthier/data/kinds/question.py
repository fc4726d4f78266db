# SPDX-License-Identifier: Apache-2.0
"""Questions about a context: a segment [question, context] for each window; targets are an answer's two end tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from luthier.core.tasks import IGNORED
from luthier.data import gate
from luthier.data.encoded import Encoded, encode_texts
from luthier.data.faults import RowFault
from luthier.data.store import Row
from luthier.data.windows import laid_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.core.tasks import Question
    from luthier.data.fill import Context

BRANCHED = False


def arrays(context: Context, columns: frozenset[str]) -> tuple[str, ...]:
    """The answer, which tokens it can begin and end with, and which text a token is of where models are told."""
    return ("labels", "types", "targets") if context.vocabulary.tells_types else ("labels", "targets")


def texts(context: Context, examples: Sequence[Question]) -> list[tuple[str, str]]:
    """Question and context; questions lose the space around them, contexts lose nothing."""
    return [(example.question.strip(), example.context) for example in examples]


def tokens(context: Context, pairs: Sequence[tuple[str, str]]) -> list[Encoded | RowFault]:
    """Tokenise them with the template of the tokenizer."""
    return encode_texts(context.vocabulary, [first for first, _ in pairs], [second for _, second in pairs])


def check(
    context: Context, names: Sequence[str], examples: Sequence[Question], items: Sequence[Encoded | RowFault]
) -> list[str]:
    """Look at the first rows as tokens."""
    return gate.check_texts(context, names, texts(context, examples), items)


def rows(
    context: Context, examples: Sequence[Question], items: Sequence[Encoded | RowFault]
) -> list[list[Row] | RowFault]:
    """Find the answers among the tokens, and cut contexts into windows."""
    return [_rows(context, example, item) for example, item in zip(examples, items, strict=True)]


def span_of(example: Question, item: Encoded) -> tuple[int, int] | RowFault | None:
    """The first and the last token of the answer that trains, the first one, counted from the context's first token.

    Both cover a character of the answer, white space at its ends left aside; a token may reach beyond it. None for a
    question that has no answer.
    """
    if not example.answers:
        return None
    for answer, start in zip(example.answers, example.starts, strict=True):
        found = example.context[start : start + len(answer)]
        if found != answer:
            return RowFault("the answer does not stand where answer_start says", f"{answer[:40]!r}: {found[:40]!r}")
    answer = example.answers[0]
    first = example.starts[0] + len(answer) - len(answer.lstrip())
    stop = example.starts[0] + len(answer.rstrip())
    begins, ends = item.characters(1)
    start = int(np.searchsorted(np.maximum.accumulate(ends), first, side="right"))
    end = int(np.searchsorted(np.maximum.accumulate(begins), stop, side="left")) - 1
    if start > end:
        return RowFault("no token of the answer", repr(answer)[:60])
    return start, end


def _rows(context: Context, example: Question, item: Encoded | RowFault) -> list[Row] | RowFault:
    if isinstance(item, RowFault):
        return item
    span = span_of(example, item)
    if isinstance(span, RowFault):
        return span
    inside = np.flatnonzero(item.sides == 1)
    if not len(inside):
        return RowFault("no token of the context")
    laid = laid_out(context.data, len(item.ids), len(inside))
    if isinstance(laid, RowFault):
        return laid
    whole = span is None or any(start <= span[0] and span[1] < stop for start, stop in laid)
    made: list[Row] = []
    for start, stop in laid:
        places = np.concatenate([np.arange(inside[0]), inside[start:stop], np.arange(inside[-1] + 1, len(item.ids))])
        labels = np.full(len(places), IGNORED, np.int32)
        labels[inside[0] : inside[0] + stop - start] = 0
        held = span is not None and start <= span[0] and span[1] < stop
        targets = tuple(float(inside[0] + place - start) for place in span) if span and held else (0.0, 0.0)
        row = Row(ids=item.ids[places], scored=np.zeros(len(places), bool), labels=labels, targets=targets)
        made.append(replace(row, types=item.types[places], places=places, lost=int(not whole and not made)))
    return made
