# SPDX-License-Identifier: Apache-2.0
"""Lists of messages: how one is read, and the order of turns that every chat format holds its rows to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.types import Conversation, Message
from luthier.data.faults import RowFault, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from luthier.core.types import Role

#: Words that data sets use for the four roles, compared in lower case.
WORDS: dict[Role, tuple[str, ...]] = {
    "system": ("system",),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "bot", "model", "bard", "bing", "claude"),
    "tool": (
        *("tool", "tool_call", "tool_response", "observation", "ipython"),
        *("function", "function_call", "function_response"),
    ),
}
SPEAKERS: dict[str, Role] = {word: role for role, words in WORDS.items() for word in words}
WEIGHTS = ("weight", "loss_weight")


def conversation(messages: Sequence[Message]) -> Conversation:
    """Check the turns and make a conversation of them.

    The rule: at most one system turn, at the start; then user and assistant in turn, beginning with the user and
    ending with the assistant. A row is used as it stands or not at all: turns are never merged or cut off, since
    the row in the file and the row that is trained would then differ without a trace.

    Raises:
        RowFault: The turns break the rule, or one of them is empty.
    """
    if any(message.role == "tool" for message in messages):
        raise RowFault("turns of tools are not supported")
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    if not any(message.role == "assistant" for message in turns):
        raise RowFault("no assistant turn")
    for number, message in enumerate(turns):
        expected = "user" if number % 2 == 0 else "assistant"
        if message.role == "system":
            raise RowFault("a system turn that is not the first")
        if message.role != expected:
            reason = f"two {message.role} turns in a row" if number else "starts with an assistant turn"
            raise RowFault(reason, f"turn {number + 1}")
        if not message.content.strip():
            raise RowFault("empty answer" if expected == "assistant" else "empty user turn", f"turn {number + 1}")
    if turns[-1].role == "user":
        raise RowFault("ends with a user turn", "nothing answers it")
    return Conversation(messages=tuple(messages))


def messages_of(items: list[Any]) -> list[Message]:
    """Read messages of either spelling: ``role`` and ``content``, or ``from`` and ``value``.

    Raises:
        RowFault: A turn is of the wrong type, or its speaker is not known.
    """
    return [_message(item, number) for number, item in enumerate(items, 1)]


def _message(item: Any, number: int) -> Message:
    if not isinstance(item, dict):
        raise RowFault("a turn is not an object", f"turn {number} is {kind_of(item)}")
    speaker = item.get("role", item.get("from"))
    if not isinstance(speaker, str):
        raise RowFault("a turn without role", f"turn {number}")
    role = SPEAKERS.get(speaker.strip().lower())
    if role is None:
        raise RowFault("unknown role", f"{speaker!r} in turn {number}; known: {', '.join(SPEAKERS)}")
    if item.get("tool_calls") or item.get("function_call"):
        role = "tool"
    return Message(role=role, content=_content(item, number, role), scored=_scored(item, number, role))


def _content(item: Mapping[str, Any], number: int, role: Role) -> str:
    content = item.get("content", item.get("value"))
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_part(part, number) for part in content)
    if role == "tool":  # such a row is refused as a whole; calls have no content
        return ""
    raise RowFault("content is not text", f"turn {number} is {kind_of(content)}")


def _part(part: Any, number: int) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else kind_of(part)
    if kind != "text":
        raise RowFault("content with parts that are not text", f"{kind} in turn {number}")
    text = part.get("text", part.get("value"))
    if not isinstance(text, str):
        raise RowFault("content is not text", f"turn {number} has a part that is {kind_of(text)}")
    return text


def _scored(item: Mapping[str, Any], number: int, role: Role) -> bool:
    """Read OpenAI's ``weight``: 0 keeps an answer from being trained."""
    for name in WEIGHTS:
        weight = item.get(name)
        if weight is None:
            continue
        if weight not in (0, 1) or (weight == 1 and role != "assistant"):
            raise RowFault(
                f"a {name} that is not supported", f"{weight!r} on a {role} turn {number}; 0, or 1 on an answer"
            )
        return bool(weight)
    return True
