# SPDX-License-Identifier: Apache-2.0
"""Judged answers: each is rendered and tokenised with its prompt, then they are joined to one tree."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from luthier.data import gate
from luthier.data.branches import branches, grown
from luthier.data.faults import RowFault
from luthier.data.kinds import plain
from luthier.data.tokens import encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.core.types import Judged
    from luthier.data.fill import Context
    from luthier.data.render import Rendered
    from luthier.data.store import Row
    from luthier.data.tokens import Tokens

BRANCHED = True


def arrays(context: Context, columns: frozenset[str]) -> tuple[str, ...]:
    """No array besides those of the answers."""
    return ()


def texts(context: Context, examples: Sequence[Judged]) -> list[Rendered | RowFault]:
    """Render each answer after its prompt.

    Raises:
        DataError: There are conversations, and no chat template.
    """
    return plain.texts(context, [branch for example in examples for branch in branches(example)])


def tokens(context: Context, rendered: Sequence[Rendered | RowFault]) -> list[Tokens | RowFault]:
    """Tokenise what was rendered."""
    return encode(context.vocabulary, rendered)


def check(
    context: Context, names: Sequence[str], examples: Sequence[Judged], items: Sequence[Tokens | RowFault]
) -> list[str]:
    """Look at the answers of the first rows as tokens."""
    apart = [branches(example) for example in examples]
    named = [f"{name}, answer {i}" for name, row in zip(names, apart, strict=True) for i in range(1, len(row) + 1)]
    every = [branch for row in apart for branch in row]
    return gate.check(gate.Look(rows=named, examples=every, tokens=items[: len(every)]), context)


def rows(
    context: Context, examples: Sequence[Judged], items: Sequence[Tokens | RowFault]
) -> list[list[Row] | RowFault]:
    """Join the answers of each row, held to ``max_length`` together."""
    waiting = iter(items)
    made: list[list[Row] | RowFault] = []
    for example in examples:
        row = grown(example, list(islice(waiting, len(example.answers))), context.data, context.vocabulary.bos)
        made.append(row if isinstance(row, RowFault) else [row])
    return made
