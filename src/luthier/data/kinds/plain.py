# SPDX-License-Identifier: Apache-2.0
"""Text to be written: rendered once, tokenised once, one segment whose answers are scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.core.types import Conversation
from luthier.data import gate
from luthier.data.faults import RowFault
from luthier.data.render import raw
from luthier.data.store import Row
from luthier.data.template import no_template
from luthier.data.tokens import NO_SCORED, Tokens, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.core.types import Example
    from luthier.data.fill import Context
    from luthier.data.render import Rendered
    from luthier.recipe.schema import Data

BRANCHED = False


def arrays(context: Context, columns: frozenset[str]) -> tuple[str, ...]:
    """No array besides tokens and which are scored."""
    return ()


def texts(context: Context, examples: Sequence[Example]) -> list[Rendered | RowFault]:
    """Render examples, in order.

    Raises:
        DataError: There are conversations, and no chat template.
    """
    chats = [example for example in examples if isinstance(example, Conversation)]
    if chats and context.renderer is None:
        raise no_template()
    rendered = iter(context.renderer(chats)) if context.renderer else iter(())
    loss_on = context.data.loss_on
    return [next(rendered) if isinstance(example, Conversation) else raw(example, loss_on) for example in examples]


def tokens(context: Context, rendered: Sequence[Rendered | RowFault]) -> list[Tokens | RowFault]:
    """Tokenise what was rendered."""
    return encode(context.vocabulary, rendered)


def check(
    context: Context, names: Sequence[str], examples: Sequence[Example], items: Sequence[Tokens | RowFault]
) -> list[str]:
    """Look at the first rows as tokens."""
    return gate.check(gate.Look(rows=names, examples=examples, tokens=items[: len(names)]), context)


def rows(
    context: Context, examples: Sequence[Example], items: Sequence[Tokens | RowFault]
) -> list[list[Row] | RowFault]:
    """Hold each row to ``max_length``."""
    return [item if isinstance(item, RowFault) else _fitted(item, context.data) for item in items]


def _fitted(item: Tokens, data: Data) -> list[Row] | RowFault:
    if not item.scored.any():
        return RowFault(NO_SCORED)
    if len(item.ids) > data.max_length and data.truncation == "refuse":
        return RowFault("longer than max_length", f"{len(item.ids):,} tokens")
    ids, scored = item.ids[: data.max_length], item.scored[: data.max_length]
    if not scored.any():
        return RowFault("answer cut away by max_length", f"{len(item.ids):,} tokens")
    return [Row(ids=ids, scored=scored, cut=len(item.ids) - len(ids))]
