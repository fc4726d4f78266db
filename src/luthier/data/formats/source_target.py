# SPDX-License-Identifier: Apache-2.0
"""A source and its target: an article and its summary, a sentence and its translation.

`source` (`document`, `article`, `dialogue`, `text` beside a `summary` ...) and `target` (`summary`, `highlights` ...).
A source may be a list of sentences, which are joined by spaces; a target may be a list of right ones: the first trains.
`translation: {en: ..., zh: ...}` is read from its first language into its second, or as `columns` says:
`{source: translation.zh, target: translation.en}`. For a model without an encoder the source is what the user says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.types import Conversation, Message
from luthier.data.columns import OTHER_OBJECTIVES, told
from luthier.data.faults import RowFault, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS: dict[str, tuple[str, ...]] = {
    "source": ("document", "article", "dialogue", "text", "src"),
    "target": ("summary", "highlights", "tgt"),
    "translation": (),
}
REQUIRED = ()


def matches(columns: frozenset[str]) -> bool:
    """Whether there are a source and a target, or translations."""
    found = told(COLUMNS, columns)
    both = {"source", "target"} <= set(found)
    return (both or "translation" in found) and not columns & (OTHER_OBJECTIVES | {"instruction", "messages"})


def read(row: Mapping[str, Any], columns: Mapping[str, str]) -> Conversation:
    """Turn one row into what is asked, the source, and what is answered, the first target."""
    sides = _languages(row, columns)
    source = sides[0] if sides else _joined(row, columns, "source")
    target = sides[1] if sides else references(row, columns)[0]
    if not source.strip() or not target.strip():
        raise RowFault("empty source" if not source.strip() else "empty target")
    return Conversation(messages=(Message(role="user", content=source), Message(role="assistant", content=target)))


def references(row: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[str, ...]:
    """All right targets, the one that trains first."""
    if sides := _languages(row, columns):
        return (sides[1],)
    value = _value(row, columns, "target")
    texts = value if isinstance(value, list) else [value]
    good = [text for text in texts if isinstance(text, str)]
    if not good or len(good) < len(texts):
        raise RowFault("target is not text, nor a list of texts", kind_of(value) if texts else "an empty list")
    return tuple(text for text in good if text.strip()) or ("",)


def _joined(row: Mapping[str, Any], columns: Mapping[str, str], name: str) -> str:
    value = _value(row, columns, name)
    texts = value if isinstance(value, list) else [value]
    good = [text for text in texts if isinstance(text, str)]
    if len(good) < len(texts):
        raise RowFault(f"{name} is not text, nor a list of sentences", kind_of(value))
    return " ".join(good)


def _value(row: Mapping[str, Any], columns: Mapping[str, str], name: str) -> object:
    given = columns.get(name)
    if given is None:
        raise RowFault(f"no column {name}")
    if given in row:
        return row[given]
    outer, _, inner = given.partition(".")
    held = row.get(outer)
    if not inner or not isinstance(held, dict) or inner not in held:
        raise RowFault(f"no column {given}")
    return held[inner]


def _languages(row: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[str, str] | None:
    """The two sides of a column `translation`, where no others are named."""
    if "translation" not in columns or {"source", "target"} <= set(columns):
        return None
    value = row.get(columns["translation"])
    if not isinstance(value, dict) or len(value) != 2 or not all(isinstance(text, str) for text in value.values()):
        raise RowFault("translation is not an object of two languages", kind_of(value))
    first, second = value.values()
    return str(first), str(second)
