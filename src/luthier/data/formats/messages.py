# SPDX-License-Identifier: Apache-2.0
"""OpenAI's messages: a list of role and content; a row may also be that list alone.

`content` is text, or a list of `{type: text, text: ...}` parts, which are joined. `weight: 0` on an assistant turn
(also `loss_weight`) keeps that turn from being trained. Turns must alternate, see `luthier/data/turns.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.data.columns import OTHER_OBJECTIVES
from luthier.data.faults import RowFault, kind_of
from luthier.data.turns import conversation, messages_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.core.types import Conversation

COLUMNS: dict[str, tuple[str, ...]] = {"messages": ()}
REQUIRED = ("messages",)


def matches(columns: frozenset[str]) -> bool:
    """Whether there is a column ``messages``, and none that belongs to preference rows."""
    return "messages" in columns and not columns & OTHER_OBJECTIVES


def read(row: Mapping[str, Any], columns: Mapping[str, str]) -> Conversation:
    """Turn one row into a conversation."""
    name = columns["messages"]
    if name not in row:
        raise RowFault(f"no column {name}")
    if not isinstance(row[name], list):
        raise RowFault(f"{name} is not a list", kind_of(row[name]))
    return conversation(messages_of(row[name]))
