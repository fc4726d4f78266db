# SPDX-License-Identifier: Apache-2.0
"""Texts, or pairs of them, with a label: a name or number, a list of names, or values.

One text: `text`, `sentence`, `review` ...; two: `sentence1` and `sentence2`, `premise` and `hypothesis`, `question` and
`sentence`, `text` and `pair` ... The label: `label`, `labels`, `category`, `intent`, `score` ...: one name or integer
is a class; a list of them is any number of classes; numbers with a fraction are values (a regression).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from luthier.core.tasks import Labelled
from luthier.data.columns import text_of, told
from luthier.data.faults import RowFault, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping

ROWS = "labelled"
COLUMNS: dict[str, tuple[str, ...]] = {
    "text": ("sentence", "review", "content", "utterance", "tweet", "premise", "sentence1", "question1", "text1"),
    "pair": ("text_pair", "hypothesis", "sentence2", "question2", "text2"),
    "labels": ("label", "category", "class", "intent", "emotion", "sentiment", "score", "similarity"),
}
REQUIRED = ("text", "labels")

#: Pairs whose names say by themselves nothing of the order: a question may stand beside many things.
PAIRS = (("question", "sentence"), ("question", "passage"), ("query", "passage"), ("query", "document"))
#: Columns that make a row one of another kind: answers that are labelled, messages, tagged words.
OTHERS = frozenset(
    {"prompt", "completion", "messages", "conversations", "instruction", "answers", "chosen", "rejected"}
)


def find(columns: frozenset[str]) -> dict[str, str]:
    """Find the text, the second one where there is one, and the label."""
    found = told(COLUMNS, columns)
    if "labels" not in found and "label" in columns:  # beside a score, say
        found["labels"] = "label"
    if "text" not in columns and "pair" not in columns:
        for first, second in PAIRS:
            if {first, second} <= columns:
                return found | {"text": first, "pair": second}
    alone = [name for name in ("question", "query") if name in columns]
    return found | {"text": alone[0]} if "text" not in found and len(alone) == 1 else found


def matches(columns: frozenset[str]) -> bool:
    """Whether there is a text and a label, and nothing that is labelled otherwise."""
    found = find(columns)
    return all(name in found for name in REQUIRED) and not columns & OTHERS


def read(row: Mapping[str, Any], columns: Mapping[str, str]) -> Labelled:
    """Turn one row into a text with its labels."""
    text = text_of(row, columns, "text", required=True)
    pair = text_of(row, columns, "pair", required=True) if "pair" in columns else None
    if not text.strip() or (pair is not None and not pair.strip()):
        raise RowFault("empty text")
    name = columns["labels"]
    if name not in row:
        raise RowFault(f"no column {name}")
    value = row[name]
    labels = [_label(item, name) for item in value] if isinstance(value, list) else [_label(value, name)]
    numbers = [item for item in value if isinstance(item, int)] if isinstance(value, list) else []
    if len(set(numbers)) < len(numbers):  # [0, 1, 0] would be read as the classes 0 and 1
        raise RowFault(f"{name} names a class twice; 0 or 1 for each class is written 0.0 or 1.0", f"{value}"[:60])
    values = [label for label in labels if isinstance(label, float)]
    if values and len(values) < len(labels):
        # 5 among 4.5 and 3.8: in a list of numbers a writer of JSON may leave out the fraction
        labels = [float(label) if isinstance(label, str) and label.isdecimal() else label for label in labels]
        values = [label for label in labels if isinstance(label, float)]
    if values and len(values) < len(labels):
        raise RowFault(f"{name} holds names and values")
    return Labelled(text=text, pair=pair, labels=tuple(values) or tuple(str(label) for label in labels))


def _label(value: object, name: str) -> str | float:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RowFault(f"{name} is not finite")
        return value
    if isinstance(value, int):
        if value < 0:
            raise RowFault(f"{name} is below 0: a row without a label")
        return str(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise RowFault(f"empty {name}" if isinstance(value, str) else f"{name} is no name or number", kind_of(value))
