# SPDX-License-Identifier: Apache-2.0
"""ShareGPT and Vicuna: a list `conversations` of `from` and `value`.

Speakers: human, user; gpt, assistant, bot, chatgpt, model and others; system. Turns of tools (`function_call`,
`observation`, ...) are refused. A `system` column is read too. Turns must alternate, see `luthier/data/turns.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.types import Message
from luthier.data.columns import OTHER_OBJECTIVES, text_of
from luthier.data.faults import RowFault, kind_of
from luthier.data.turns import conversation, messages_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.core.types import Conversation

COLUMNS: dict[str, tuple[str, ...]] = {"conversations": ("conversation",), "system": ()}
REQUIRED = ("conversations",)


def matches(columns: frozenset[str]) -> bool:
    """Whether there is a column ``conversations``, and none that belongs to preference rows."""
    return "conversations" in columns and not columns & OTHER_OBJECTIVES


def read(row: Mapping[str, Any], columns: Mapping[str, str]) -> Conversation:
    """Turn one row into a conversation."""
    name = columns["conversations"]
    if name not in row:
        raise RowFault(f"no column {name}")
    if not isinstance(row[name], list):
        raise RowFault(f"{name} is not a list", kind_of(row[name]))
    messages = messages_of(row[name])
    system = text_of(row, columns, "system")
    if system.strip():
        if messages and messages[0].role == "system":
            raise RowFault("a system column and a system turn")
        messages.insert(0, Message(role="system", content=system))
    return conversation(messages)
