# SPDX-License-Identifier: Apache-2.0
"""Instruction, optional input, output: one question and one answer a row.

Also read: question + answer (GSM8K), prompt + response, instruction + context + response (Dolly), a `system` column,
and `history`, a list of [user, assistant] pairs that come before. The user turn is the instruction, a line break and
the input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.types import Message
from luthier.data.columns import OTHER_OBJECTIVES, text_of, told
from luthier.data.formats._question import question_of
from luthier.data.turns import conversation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.core.types import Conversation

COLUMNS = {
    "instruction": ("question", "query", "prompt"),
    "input": ("context",),
    "output": ("response", "answer", "completion"),
    "system": ("system_prompt",),
    "history": (),
}
REQUIRED = ("instruction", "output")


def matches(columns: frozenset[str]) -> bool:
    """Whether there is one column of instructions and one of answers; ``prompt`` + ``completion`` is another format."""
    found = told(COLUMNS, columns)
    raw = (found.get("instruction"), found.get("output")) == ("prompt", "completion")
    # `context` + `question` + `answer` is also how extractive question answering looks; there it is `answers`
    return all(name in found for name in REQUIRED) and not raw and not columns & OTHER_OBJECTIVES


def read(row: Mapping[str, Any], columns: Mapping[str, str]) -> Conversation:
    """Turn one row into a conversation."""
    output = text_of(row, columns, "output", required=True)
    return conversation([*question_of(row, columns), Message(role="assistant", content=output)])
