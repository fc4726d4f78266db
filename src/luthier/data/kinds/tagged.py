# SPDX-License-Identifier: Apache-2.0
"""Words with tags: one segment, or windows of it; the first token of a word carries its tag, in one window.

The words are joined by spaces and tokenised as one text, so a model sees what it would see of the sentence, and which
tokens belong to a word follows from the characters they cover.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from luthier.core.tasks import IGNORED
from luthier.data import gate
from luthier.data.encoded import Encoded, encode_texts
from luthier.data.faults import RowFault
from luthier.data.store import Row
from luthier.data.windows import best_seen, laid_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from luthier.core.tasks import Tagged
    from luthier.data.fill import Context

BRANCHED = False


def arrays(context: Context, columns: frozenset[str]) -> tuple[str, ...]:
    """The class of each token."""
    return ("labels",)


def texts(context: Context, examples: Sequence[Tagged]) -> list[str]:
    """The words of each, joined by spaces."""
    return [" ".join(example.words) for example in examples]


def tokens(context: Context, sentences: Sequence[str]) -> list[Encoded | RowFault]:
    """Tokenise them with the template of the tokenizer."""
    return encode_texts(context.vocabulary, sentences)


def check(
    context: Context, names: Sequence[str], examples: Sequence[Tagged], items: Sequence[Encoded | RowFault]
) -> list[str]:
    """Look at the first rows as tokens."""
    return gate.check_texts(context, names, [(text, None) for text in texts(context, examples)], items)


def rows(
    context: Context, examples: Sequence[Tagged], items: Sequence[Encoded | RowFault]
) -> list[list[Row] | RowFault]:
    """Give tokens their classes, and cut what is longer than ``max_length`` into windows."""
    return [_rows(context, example, item) for example, item in zip(examples, items, strict=True)]


def first_tokens(words: Sequence[str], item: Encoded) -> npt.NDArray[np.int64]:
    """The token of the text that each word begins with, counted without special tokens; -1 for a word that has none.

    A word has none where the tokenizer drops its characters, or where its first token is that of the word before.
    """
    begins, ends = item.characters(0)
    lengths = np.array([len(word) for word in words], np.int64)
    stops = np.cumsum(lengths + 1) - 1  # a space stands between two words
    starts = stops - lengths
    places = np.searchsorted(np.maximum.accumulate(ends), starts, side="right")
    there = places < len(begins)
    there[there] = begins[places[there]] < stops[there]
    some = np.flatnonzero(there)
    there[some[1:]] = places[some[1:]] != places[some[:-1]]
    return np.where(there, places, -1)


def _rows(context: Context, example: Tagged, item: Encoded | RowFault) -> list[Row] | RowFault:
    if isinstance(item, RowFault):
        return item
    assert context.numbers is not None
    try:
        tags = np.array([context.numbers.tag(name) for name in example.tags], np.int32)
    except RowFault as fault:
        return fault
    firsts = first_tokens(example.words, item)
    inside = np.flatnonzero(item.sides == 0)
    if not (firsts >= 0).any():
        return RowFault("no token of the words")
    laid = laid_out(context.data, len(item.ids), len(inside))
    if isinstance(laid, RowFault):
        return laid
    there, lost = firsts >= 0, int(np.count_nonzero(firsts < 0))
    owner = best_seen(firsts[there], laid)
    made: list[Row] = []
    before, after = np.arange(inside[0]), np.arange(inside[-1] + 1, len(item.ids))
    for number, (start, stop) in enumerate(laid):
        if not (own := owner == number).any():
            continue  # each of its words is seen better in another window
        places = np.concatenate([before, inside[start:stop], after])
        labels, scored = np.full(len(places), IGNORED, np.int32), np.zeros(len(places), bool)
        labels[len(before) + firsts[there][own] - start] = tags[there][own]
        told = 0 if made else lost
        made.append(Row(ids=item.ids[places], scored=scored, labels=labels, places=places, lost=told))
    return made
