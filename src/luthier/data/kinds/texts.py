# SPDX-License-Identifier: Apache-2.0
"""Texts that belong together: each a segment of its own below a root without tokens, with a grade or a score."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from luthier.data import gate
from luthier.data.encoded import Encoded, encode_texts, shortened
from luthier.data.faults import RowFault
from luthier.data.store import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.core.tasks import Texts
    from luthier.data.fill import Context

BRANCHED = True


def arrays(context: Context, columns: frozenset[str]) -> tuple[str, ...]:
    """No array besides those of the branches."""
    return ()


def texts(context: Context, examples: Sequence[Texts]) -> list[str]:
    """The texts of all rows, one after the other."""
    return [text for example in examples for text in example.texts]


def tokens(context: Context, every: Sequence[str]) -> list[Encoded | RowFault]:
    """Tokenise each with the template of the tokenizer."""
    return encode_texts(context.vocabulary, every)


def check(
    context: Context, names: Sequence[str], examples: Sequence[Texts], items: Sequence[Encoded | RowFault]
) -> list[str]:
    """Look at the texts of the first rows as tokens."""
    named = [
        f"{name}, text {i}" for name, row in zip(names, examples, strict=True) for i in range(1, len(row.texts) + 1)
    ]
    every = [(text, None) for text in texts(context, examples)]
    return gate.check_texts(context, named, every, items[: len(every)])


def rows(
    context: Context, examples: Sequence[Texts], items: Sequence[Encoded | RowFault]
) -> list[list[Row] | RowFault]:
    """Hold each text to ``max_length``, and lay those of a row side by side."""
    waiting = iter(items)
    return [_row(context, example, list(islice(waiting, len(example.texts)))) for example in examples]


def _row(context: Context, example: Texts, items: Sequence[Encoded | RowFault]) -> list[Row] | RowFault:
    ids, cut = [], 0
    for item in items:
        if isinstance(item, RowFault):
            return item
        kept = shortened(item, context.data.max_length)
        if not (item.sides[kept] >= 0).any():
            return RowFault("no token of a text")
        if len(kept) < len(item.ids) and context.data.truncation == "refuse":
            return RowFault("longer than max_length", f"{len(item.ids):,} tokens")
        cut += len(item.ids) - len(kept)
        ids.append(item.ids[kept])
    joined = np.concatenate(ids)
    return [
        Row(
            ids=joined,
            scored=np.zeros(len(joined), bool),
            answers=tuple(map(len, ids)),
            grades=example.grades,
            scores=None if example.score is None else (example.score,) * len(ids),
            cut=cut,
        )
    ]
