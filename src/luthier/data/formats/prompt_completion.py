# SPDX-License-Identifier: Apache-2.0
"""Prompt and completion as they stand: no chat template, EOS at the end, only the completion is trained.

Where both are lists of messages they make a conversation, and only the answers of the completion are trained.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from luthier.core.types import Completion
from luthier.data.columns import OTHER_OBJECTIVES, text_of
from luthier.data.faults import RowFault, kind_of
from luthier.data.turns import conversation, messages_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.core.types import Conversation

COLUMNS: dict[str, tuple[str, ...]] = {"prompt": (), "completion": ()}
REQUIRED = ("prompt", "completion")


def matches(columns: frozenset[str]) -> bool:
    """Whether both columns are there, and none that belongs to preference rows."""
    return columns.issuperset(REQUIRED) and not columns & OTHER_OBJECTIVES


def read(row: Mapping[str, Any], columns: Mapping[str, str]) -> Completion | Conversation:
    """Turn one row into a text with its continuation, or into a conversation."""
    prompt, completion = row.get(columns["prompt"]), row.get(columns["completion"])
    if isinstance(prompt, list) and isinstance(completion, list):
        before = [replace(message, scored=False) for message in messages_of(prompt)]
        return conversation(before + messages_of(completion))
    if isinstance(prompt, list) or isinstance(completion, list):
        raise RowFault("prompt and completion are of different kinds", f"{kind_of(prompt)} and {kind_of(completion)}")
    after = text_of(row, columns, "completion", required=True)
    if not after.strip():
        raise RowFault("empty answer")
    return Completion(prompt=text_of(row, columns, "prompt", required=True), completion=after)
