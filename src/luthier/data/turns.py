# SPDX-License-Identifier: Apache-2.0
"""The order of turns that every chat format holds its rows to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.core.types import Conversation
from luthier.data.faults import RowFault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.core.types import Message


def conversation(messages: Sequence[Message]) -> Conversation:
    """Check the turns and make a conversation of them.

    The rule: at most one system turn, at the start; then user and assistant in turn, beginning with the user and
    ending with the assistant. A row is used as it stands or not at all: turns are never merged or cut off, since
    the row in the file and the row that is trained would then differ without a trace.

    Raises:
        RowFault: The turns break the rule, or one of them is empty.
    """
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    if not any(message.role == "assistant" for message in turns):
        raise RowFault("no assistant turn")
    for number, message in enumerate(turns):
        expected = "user" if number % 2 == 0 else "assistant"
        if message.role == "tool":
            raise RowFault("tool turns are not supported")
        if message.role == "system":
            raise RowFault("a system turn that is not the first")
        if message.role != expected:
            before = turns[number - 1].role if number else "nothing"
            reason = f"two {message.role} turns in a row" if number else "starts with an assistant turn"
            raise RowFault(reason, f"turn {number + 1} is {message.role} after {before}")
        if not message.content.strip():
            raise RowFault("empty answer" if expected == "assistant" else "empty user turn", f"turn {number + 1}")
    if turns[-1].role == "user":
        raise RowFault("ends with a user turn", "nothing answers it")
    return Conversation(messages=tuple(messages))
