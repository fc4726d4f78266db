# SPDX-License-Identifier: Apache-2.0
"""Instruction, optional input, system prompt and history -> the messages of a question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.types import Message
from luthier.data.columns import text_of
from luthier.data.faults import RowFault, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping


def question_of(row: Mapping[str, Any], columns: Mapping[str, str]) -> list[Message]:
    """Read the columns `instruction`, `input`, `system` and `history`; the last message is the user's.

    Raises:
        RowFault: There is no instruction, or a column is of the wrong type.
    """
    system, given = text_of(row, columns, "system"), text_of(row, columns, "input")
    instruction = text_of(row, columns, "instruction", required=True)
    if not instruction.strip():
        raise RowFault("empty instruction")
    messages = [Message(role="system", content=system)] if system.strip() else []
    messages += _history(row.get(columns.get("history", "")))
    return [*messages, Message(role="user", content=f"{instruction}\n{given}" if given.strip() else instruction)]


def _history(pairs: object) -> list[Message]:
    if pairs is None:
        return []
    if not isinstance(pairs, list):
        raise RowFault("history is not a list of pairs", kind_of(pairs))
    messages = []
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowFault("history is not a list of pairs", f"{kind_of(pair)} in it")
        messages += [Message(role="user", content=pair[0]), Message(role="assistant", content=pair[1])]
    return messages
