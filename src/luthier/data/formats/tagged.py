# SPDX-License-Identifier: Apache-2.0
"""Words and a tag for each, as CoNLL files and data sets for named entities have them.

`tokens` (or `words`) and `tags` (or `ner_tags`, `pos_tags`, `labels` ...), two lists of one length. Tags are names, or
numbers, whose names `data.labels` gives. A `.conll` file is read as such rows: its first column the words, its last the
tags.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.tasks import Tagged
from luthier.data.columns import told
from luthier.data.faults import RowFault, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping

ROWS = "tagged"
COLUMNS: dict[str, tuple[str, ...]] = {
    "tokens": ("words", "token", "word"),
    "tags": ("ner_tags", "pos_tags", "ner", "labels", "label", "tag"),
}
REQUIRED = ("tokens", "tags")


def matches(columns: frozenset[str]) -> bool:
    """Whether there are words and tags."""
    found = told(COLUMNS, columns)
    return all(name in found for name in REQUIRED)


def read(row: Mapping[str, Any], columns: Mapping[str, str]) -> Tagged:
    """Turn one row into words with their tags."""
    lists = []
    for name in REQUIRED:
        given = columns[name]
        value = row.get(given)
        if not isinstance(value, list):
            raise RowFault(f"no column {given}" if given not in row else f"{given} is not a list", kind_of(value))
        lists.append(value)
    words, tags = lists
    if len(words) != len(tags):
        raise RowFault("not as many tags as words", f"{len(tags)} for {len(words)}")
    if not words:
        raise RowFault("no words")
    if wrong := [word for word in words if not isinstance(word, str)]:
        raise RowFault("a word is not text", kind_of(wrong[0]))
    return Tagged(words=tuple(words), tags=tuple(_tag(tag) for tag in tags))


def _tag(value: object) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return str(value)
    raise RowFault("a tag is no name or number", "empty text" if value == "" else kind_of(value))
