# SPDX-License-Identifier: Apache-2.0
"""Judged answers -> branches, each an example as a server would see it -> one tree of a shared prompt and its answers.

Each answer is rendered and tokenised with its prompt. The tokens that all encodings begin with, at most up to the first
scored one, are the prompt; what is left of each encoding is an answer. So every branch of the tree is, token by token,
the encoding of its answer alone:

    [prompt | chosen]     [prompt | rejected]     ->     [prompt]--[chosen]
                                                             `-----[rejected]
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from luthier.core.types import Completion, Conversation
from luthier.data.faults import RowFault
from luthier.data.store import Row
from luthier.data.tokens import NO_SCORED, Tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.core.types import Judged
    from luthier.recipe.schema import Data


def branches(judged: Judged) -> list[Conversation | Completion]:
    """Return each answer after its prompt, an example of its own in which the answer alone is scored."""
    if isinstance(judged.prompt, str):
        return [Completion(prompt=judged.prompt, completion=str(answer)) for answer in judged.answers]
    before = tuple(replace(message, scored=False) for message in judged.prompt)
    return [Conversation(messages=before + answer) for answer in judged.answers if not isinstance(answer, str)]


def grown(judged: Judged, encodings: Sequence[Tokens | RowFault], data: Data, bos: int | None) -> Row | RowFault:
    """Join the encodings of a row's answers, held to ``max_length`` together.

    A branch has at most ``data.max_length`` tokens. What is too long loses the start of its prompt (its BOS stays), the
    same for all answers, and no answer loses its end.

    Args:
        judged: The row.
        encodings: Of each of its branches, uncut.
        data: ``max_length``, ``max_prompt_length``, ``truncation``.
        bos: The token that stays at the start of the prompt.
    """
    fault = next((item for item in encodings if isinstance(item, RowFault)), None)
    if fault is not None:
        return fault
    items = [item for item in encodings if isinstance(item, Tokens)]
    if not all(item.scored.any() for item in items):
        return RowFault(NO_SCORED)
    for (i, first), (j, second) in combinations(enumerate(items), 2):
        if judged.grades[i] != judged.grades[j] and np.array_equal(first.ids, second.ids):
            return RowFault("identical answers", f"{i + 1} and {j + 1}, with different grades")
    shared = _shared(items)
    if not shared:
        return RowFault("no prompt token that all answers share")
    prompt, answers = items[0].ids[:shared], [item.ids[shared:] for item in items]
    most = data.max_length - max(map(len, answers))
    if data.max_prompt_length is not None:
        most = min(most, data.max_prompt_length)
    keeps_bos = int(prompt[0]) == bos
    if most < min(shared, 1 + keeps_bos):
        return RowFault("an answer longer than max_length", f"{max(map(len, answers)):,} tokens, without its prompt")
    if shared > most:
        if data.truncation == "refuse":
            return RowFault("longer than max_length", f"{shared + max(map(len, answers)):,} tokens")
        prompt = np.concatenate([prompt[:keeps_bos], prompt[shared - most + keeps_bos :]])
    return Row(
        ids=np.concatenate([prompt, *answers]),
        scored=np.concatenate([np.zeros(len(prompt), bool), *(item.scored[shared:] for item in items)]),
        answers=tuple(map(len, answers)),
        grades=judged.grades,
        scores=judged.scores,
        cut=shared - len(prompt),
    )


def _shared(items: Sequence[Tokens]) -> int:
    """Count the tokens that all encodings begin with, at most up to the first scored one."""
    most = min(int(np.argmax(item.scored)) for item in items)
    first = items[0].ids[:most]
    for item in items[1:]:
        differs = first != item.ids[: len(first)]
        first = first[: int(np.argmax(differs))] if differs.any() else first
    return len(first)
