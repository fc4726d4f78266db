# SPDX-License-Identifier: Apache-2.0
"""OpenAssistant's trees of messages: each question with two ranked answers or more is an example.

A row is a whole tree: `prompt` with `text`, `role` (prompter, assistant), `rank` (0 is best) and `replies`. The path to
the question is the prompt. Deleted answers, and answers without a rank, are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.types import Message
from luthier.data.faults import RowFault, kind_of
from luthier.data.formats._judged import judged
from luthier.data.turns import SPEAKERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from luthier.core.types import Judged

ROWS = "judged"
COLUMNS: dict[str, tuple[str, ...]] = {"message_tree_id": (), "prompt": ()}
REQUIRED = ("message_tree_id", "prompt")


def matches(columns: frozenset[str]) -> bool:
    """Whether a row is a tree of messages."""
    return columns.issuperset(REQUIRED)


def read(row: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[Judged, ...]:
    """Turn one tree into one example for each of its questions."""
    name = columns["prompt"]
    root = row.get(name)
    if not isinstance(root, dict):
        raise RowFault(f"{name} is not an object", kind_of(root))
    found = tuple(_questions(root))
    if not found:
        raise RowFault("no question with two ranked answers")
    return found


def _questions(root: Mapping[str, Any]) -> Iterator[Judged]:
    """Walk the tree, parents first; by a list and not by calls, since a long dialogue is deep."""
    waiting: list[tuple[Mapping[str, Any], list[Message]]] = [(root, [])]
    while waiting:
        node, before = waiting.pop()
        path = [*before, _message(node)]
        replies = [reply for reply in _replies(node) if not reply.get("deleted")]
        ranked = [reply for reply in replies if isinstance(reply.get("rank"), int)]
        if path[-1].role == "user" and len(ranked) > 1:
            ranked.sort(key=lambda reply: int(reply["rank"]))
            yield judged(path, [[_message(reply)] for reply in ranked], [-reply["rank"] for reply in ranked])
        waiting += [(reply, path) for reply in reversed(replies)]


def _message(node: Mapping[str, Any]) -> Message:
    text, role = node.get("text"), SPEAKERS.get(str(node.get("role")))
    if not isinstance(text, str):
        raise RowFault("a message without text", kind_of(text))
    if role not in ("user", "assistant"):
        raise RowFault("a role that is neither prompter nor assistant", repr(node.get("role")))
    return Message(role=role, content=text)


def _replies(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    replies = node.get("replies") or []
    if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
        raise RowFault("replies are not a list of messages", kind_of(replies))
    return replies
