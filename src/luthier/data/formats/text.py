# SPDX-License-Identifier: Apache-2.0
"""Plain text to go on pretraining with: every token is trained, and EOS ends it.

One document a row: a column `text`, a JSON string, or a line of a .txt file. BOS begins it where the tokenizer puts it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.types import Text
from luthier.data.columns import OTHER_OBJECTIVES, text_of
from luthier.data.faults import RowFault

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS: dict[str, tuple[str, ...]] = {"text": ("content",)}
REQUIRED = ("text",)

#: Beside one of these, `text` is one half of a pair (in Dolly-derived rows it is the answer to `instruction`).
HALVES = frozenset(
    {"instruction", "question", "query", "prompt", "category", "target", "summary", "messages", "conversations"}
)


def matches(columns: frozenset[str]) -> bool:
    """Whether there is a column ``text`` that stands for the whole row."""
    return "text" in columns and not columns & (OTHER_OBJECTIVES | HALVES)


def read(row: Mapping[str, Any], columns: Mapping[str, str]) -> Text:
    """Turn one row into a text."""
    text = text_of(row, columns, "text", required=True)
    if not text.strip():
        raise RowFault("empty text")
    return Text(text=text)
