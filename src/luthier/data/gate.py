# SPDX-License-Identifier: Apache-2.0
"""The token gate: real rows are looked at as tokens before the first step.

What it refuses are faults that leave the loss curve healthy and the model broken: two BOS, an end-of-turn that is never
trained, nothing scored, and training tokens that differ from what a server makes of the same messages.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from luthier.core.errors import DataError
from luthier.core.types import Conversation, Text
from luthier.data.encoded import BREAK
from luthier.data.faults import RowFault
from luthier.data.render import CHANGES_EARLIER_TURNS
from luthier.data.tokens import NO_SCORED, TWO_BOS, Tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.core.types import Example
    from luthier.data.encoded import Encoded
    from luthier.data.fill import Context
    from luthier.data.vocabulary import Vocabulary

ROWS = 64  # rows that are looked at; a template is wrong on all of them or on none

FAULTS = {
    TWO_BOS: (
        "the rows or the chat template begin with BOS and the tokenizer adds one too; a served model sees one",
        "remove the BOS text from the data or from the template",
    ),
    CHANGES_EARLIER_TURNS: (
        "the answers cannot be told apart, and a model trained so would meet other tokens when it answers turn by turn",
        "set data.loss_on: last, or name another data.chat_template",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """The first rows of a source.

    Attributes:
        rows: Name of each.
        examples: What was read.
        tokens: What became of it, before truncation.
    """

    rows: Sequence[str]
    examples: Sequence[Example]
    tokens: Sequence[Tokens | RowFault]


def check(look: Look, context: Context) -> list[str]:
    """Look at the first rows of a source.

    Args:
        look: The rows.
        context: Template and tokenizer that made their tokens.

    Returns:
        What is no fault, but worth knowing.

    Raises:
        DataError: One of the faults above; the message names the row.
    """
    renderer, words = context.renderer, context.vocabulary
    template = renderer.template.name if renderer else "no chat template"
    open_turns = 0
    for row, example, item in zip(look.rows, look.examples, look.tokens, strict=True):
        where = f"{row} with {template}"
        if isinstance(item, RowFault):
            if item.reason in FAULTS:
                raise DataError(where, str(item), *FAULTS[item.reason])
            continue
        if not item.closed and item.scored.any() and not _asked_not_to(example):
            raise DataError(
                where,
                f"the answer has no end-of-turn token, and eos_token is {words.name(words.eos)}",
                "every answer must end with a token that is trained, or the model never learns to stop",
                "set the tokenizer's eos_token, or name another data.chat_template",
            )
        if isinstance(example, Conversation) and renderer is not None:
            served = context.tokenizer.apply_chat_template(
                [{"role": message.role, "content": message.content} for message in renderer.messages(example)],
                chat_template=renderer.template.source,
                tokenize=True,
                return_dict=False,  # transformers 5 gives a BatchEncoding otherwise
                tokenizer_kwargs={"verbose": False},  # no word about model_max_length: rows are cut later
            )
            _same(where, list(served), item.ids.tolist(), words, "apply_chat_template's")
            open_turns += _open_turns(item, words)
    good = [item for item in look.tokens if isinstance(item, Tokens)]
    if good and not any(item.scored.any() for item in good):
        fix = "data.loss_on, or the weights in the rows, leave nothing to train"
        raise DataError(f"{look.rows[0]} with {template}", f"{NO_SCORED} in it and the next {len(good)} rows", fix=fix)
    notes = []
    if held := sorted({end for example in look.examples for end in words.end_texts if _holds(example, end)}):
        notes.append(f"rows hold {', '.join(held[:4])} as text: it is read as that token, here and by a server")
    if held := sorted({mark for example in look.examples for mark in _placeholders(example)}):
        notes.append(f"the answers hold {', '.join(held[:4])}: if these are placeholders, fill them in before training")
    if open_turns:
        notes.append(f"{template} ends earlier answers with no token: only the last of a row teaches the model to stop")
    return notes


def check_texts(
    context: Context,
    names: Sequence[str],
    texts: Sequence[tuple[str, str | None]],
    items: Sequence[Encoded | RowFault],
) -> list[str]:
    """Look at the first texts that are read and not written: of rows with labels, tags, answers, or of the like.

    Args:
        context: The tokenizer.
        names: Name of each.
        texts: A text, and a second one where there are two.
        items: Their tokens, before anything is cut; there may be more of them.

    Returns:
        What is no fault, but worth knowing.

    Raises:
        DataError: A text begins with two BOS (or [CLS]), or a server's tokenizer would make other tokens of it.
    """
    words = context.vocabulary
    for name, (first, second), item in zip(names, texts, items, strict=False):
        if isinstance(item, RowFault):
            continue
        ids = item.ids.tolist()
        if len(ids) > 1 and ids[0] == ids[1] and ids[0] in words.starts:
            raise DataError(name, f"{TWO_BOS}: {words.name(ids[0])} twice", *FAULTS[TWO_BOS])
        joined = item.joined is not None
        given = (f"{first}{BREAK}{second}",) if joined else (first,) if second is None else (first, second)
        served = context.tokenizer(*given, verbose=False)["input_ids"]
        _same(name, list(served), ids, words, "tokenizer(text)'s")
    every = [text for pair in texts for text in pair if text]
    held = sorted({end for end in words.end_texts if any(end in text for text in every)})
    return [f"rows hold {', '.join(held[:4])} as text: it is read as that token, here and by a server"] if held else []


def _holds(example: Example, text: str) -> bool:
    if isinstance(example, Conversation):
        return any(text in message.content for message in example.messages)
    return text in (example.text if isinstance(example, Text) else example.prompt + example.completion)


def _placeholders(example: Example) -> list[str]:
    """Find what looks like ``{{name}}`` in answers, as in LLaMA-Factory's identity.json."""
    if not isinstance(example, Conversation):
        return []
    return [mark for message in example.messages[-1:] for mark in re.findall(r"\{\{ ?\w+ ?\}\}", message.content)]


def _asked_not_to(example: Example) -> bool:
    return isinstance(example, Conversation) and not example.messages[-1].scored


def _same(where: str, served: list[int], ids: list[int], vocabulary: Vocabulary, whose: str) -> None:
    """Hold the training tokens to the served ones; an appended end-of-turn is the one allowed difference."""
    if ids == served or (ids[:-1] == served and ids[-1] == vocabulary.eos):
        return
    place = next((i for i, (a, b) in enumerate(zip(ids, served, strict=False)) if a != b), min(len(ids), len(served)))
    ours, theirs = (
        vocabulary.backend.decode(x[max(0, place - 4) : place + 4], skip_special_tokens=False) for x in (ids, served)
    )
    raise DataError(
        where,
        f"the training tokens differ from {whose} at token {place}: {ours!r} here, {theirs!r} there",
        "the same tokens in training and serving",
        "please report this with the tokenizer's name",
    )


def _open_turns(item: Tokens, vocabulary: Vocabulary) -> int:
    """Count runs of scored tokens that end without an end-of-turn token."""
    after = np.flatnonzero(item.scored & ~np.append(item.scored[1:], False))
    return sum(int(token) not in vocabulary.ends for token in item.ids[after])
