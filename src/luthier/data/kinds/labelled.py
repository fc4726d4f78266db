# SPDX-License-Identifier: Apache-2.0
"""A text or a pair of texts with labels: one segment with the tokenizer's special tokens; targets say what is true."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from luthier.data import gate
from luthier.data.encoded import Encoded, encode_texts, shortened
from luthier.data.faults import RowFault
from luthier.data.store import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.core.tasks import Labelled
    from luthier.data.fill import Context

BRANCHED = False


def arrays(context: Context, columns: frozenset[str]) -> tuple[str, ...]:
    """Targets, and of pairs which text a token is of, where the tokenizer's models are told."""
    return ("types", "targets") if "pair" in columns and context.vocabulary.tells_types else ("targets",)


def texts(context: Context, examples: Sequence[Labelled]) -> list[tuple[str, str | None]]:
    """The texts as they stand."""
    return [(example.text, example.pair) for example in examples]


def tokens(context: Context, pairs: Sequence[tuple[str, str | None]]) -> list[Encoded | RowFault]:
    """Tokenise them with the template of the tokenizer."""
    return encode_texts(context.vocabulary, [first for first, _ in pairs], [second for _, second in pairs])


def check(
    context: Context, names: Sequence[str], examples: Sequence[Labelled], items: Sequence[Encoded | RowFault]
) -> list[str]:
    """Look at the first rows as tokens."""
    return gate.check_texts(context, names, texts(context, examples), items)


def rows(
    context: Context, examples: Sequence[Labelled], items: Sequence[Encoded | RowFault]
) -> list[list[Row] | RowFault]:
    """Give each its targets, and hold it to ``max_length``."""
    return [_row(context, example, item) for example, item in zip(examples, items, strict=True)]


def _row(context: Context, example: Labelled, item: Encoded | RowFault) -> list[Row] | RowFault:
    if isinstance(item, RowFault):
        return item
    assert context.numbers is not None
    targets = context.numbers.targets(example)
    if isinstance(targets, RowFault):
        return targets
    kept = shortened(item, context.data.max_length)
    if not (item.sides[kept] >= 0).any():
        return RowFault("no token of the text")
    cut = len(item.ids) - len(kept)
    if cut and context.data.truncation == "refuse":
        return RowFault("longer than max_length", f"{len(item.ids):,} tokens")
    types, scored = item.types[kept], np.zeros(len(kept), bool)
    return [Row(ids=item.ids[kept], scored=scored, types=types, targets=targets, places=kept, cut=cut)]
