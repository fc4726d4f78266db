# SPDX-License-Identifier: Apache-2.0
"""A source and its target, for models with an encoder: the source a segment without score, the target below it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from luthier.core.errors import DataError
from luthier.core.types import Completion, Conversation
from luthier.data import gate
from luthier.data.encoded import Encoded, encode_texts, shortened
from luthier.data.faults import RowFault
from luthier.data.store import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.core.types import Example
    from luthier.data.fill import Context

BRANCHED = True
Pair = tuple[str, str]


def arrays(context: Context, columns: frozenset[str]) -> tuple[str, ...]:
    """No array besides those of the branches."""
    return ()


def pair_of(example: Example) -> Pair | RowFault:
    """The source and the target of a row: a prompt and its completion, or a question and its answer.

    A system prompt stands before the question, on a line of its own.
    """
    if isinstance(example, Completion):
        return (example.prompt, example.completion) if example.prompt.strip() else RowFault("empty source")
    if not isinstance(example, Conversation):
        return RowFault("a text without a target")
    messages = example.messages
    if [message.role for message in messages if message.role != "system"] != ["user", "assistant"]:
        return RowFault("not one question and one answer", f"{len(messages)} turns")
    if not messages[-1].scored:
        return RowFault("an answer that its row asks not to train")
    return "\n".join(message.content for message in messages[:-1]), messages[-1].content


def texts(context: Context, examples: Sequence[Example]) -> list[Pair | RowFault]:
    """Source and target of each row."""
    return [pair_of(example) for example in examples]


def tokens(context: Context, pairs: Sequence[Pair | RowFault]) -> list[tuple[Encoded, Encoded] | RowFault]:
    """Tokenise both sides, each with the template of the tokenizer.

    Raises:
        DataError: The tokenizer has no token to end a target with.
    """
    if context.vocabulary.eos is None:
        fix = "choose a tokenizer of a model with encoder and decoder, or set its eos_token"
        raise DataError("the tokenizer", "it has no eos_token", "one that ends every target", fix)
    good = [pair for pair in pairs if not isinstance(pair, RowFault)]
    found = encode_texts(context.vocabulary, [text for side in (0, 1) for text in (pair[side] for pair in good)])
    both = iter(zip(found[: len(good)], found[len(good) :], strict=True))
    return [pair if isinstance(pair, RowFault) else _both(*next(both)) for pair in pairs]


def _both(source: Encoded | RowFault, target: Encoded | RowFault) -> tuple[Encoded, Encoded] | RowFault:
    if isinstance(source, RowFault):
        return source
    return target if isinstance(target, RowFault) else (source, target)


def check(
    context: Context,
    names: Sequence[str],
    examples: Sequence[Example],
    items: Sequence[tuple[Encoded, Encoded] | RowFault],
) -> list[str]:
    """Look at the sources of the first rows as tokens."""
    pairs = texts(context, examples)
    sources = [("", None) if isinstance(pair, RowFault) else (pair[0], None) for pair in pairs]
    return gate.check_texts(
        context, names, sources, [item if isinstance(item, RowFault) else item[0] for item in items[: len(names)]]
    )


def rows(
    context: Context, examples: Sequence[Example], items: Sequence[tuple[Encoded, Encoded] | RowFault]
) -> list[list[Row] | RowFault]:
    """Close each target with EOS, and cut sources to what ``max_length`` leaves beside it."""
    return [item if isinstance(item, RowFault) else _row(context, *item) for item in items]


def _row(context: Context, source: Encoded, target: Encoded) -> list[Row] | RowFault:
    data, eos = context.data, context.vocabulary.eos
    if not (source.sides == 0).any() or not (target.sides == 0).any():
        return RowFault("no token of the source" if not (source.sides == 0).any() else "no token of the target")
    said = target.ids if target.ids[-1] == eos else np.append(target.ids, np.int32(eos or 0))
    most = data.max_length - len(said)
    if data.max_prompt_length is not None:
        most = min(most, data.max_prompt_length)
    kept = shortened(source, most) if most > 0 else np.zeros(0, np.int64)
    if not (source.sides[kept] == 0).any():
        return RowFault("a target longer than max_length", f"{len(said):,} tokens, without its source")
    cut = len(source.ids) - len(kept)
    if cut and data.truncation == "refuse":
        return RowFault("longer than max_length", f"{len(source.ids) + len(said):,} tokens")
    scored = np.concatenate([np.zeros(len(kept), bool), np.ones(len(said), bool)])
    return [Row(ids=np.concatenate([source.ids[kept], said]), scored=scored, answers=(len(said),), cut=cut)]
