# SPDX-License-Identifier: Apache-2.0
"""Questions whose answer is a span of a context, as in SQuAD.

`question`, `context` and `answers`: `{text: [...], answer_start: [...]}` or a list of `{text, answer_start}`; without
any, the context holds no answer (SQuAD 2). One answer may also stand in columns `answer` and `answer_start`. The nested
JSON of SQuAD (`data[].paragraphs[].qas[]`) is read as such rows. `answer_start` counts characters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.tasks import Question
from luthier.data.columns import text_of, told
from luthier.data.faults import RowFault, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping

ROWS = "question"
COLUMNS: dict[str, tuple[str, ...]] = {
    "question": (),
    "context": ("passage", "paragraph"),
    "answers": ("answer",),
    "answer_start": (),
    "id": (),
}
REQUIRED = ("question", "context", "answers")


def matches(columns: frozenset[str]) -> bool:
    """Whether there are a question, a context, and spans that answer it."""
    found = told(COLUMNS, columns)
    spans = found.get("answers") == "answers" or "answer_start" in found
    return all(name in found for name in REQUIRED) and spans


def read(row: Mapping[str, Any], columns: Mapping[str, str]) -> Question:
    """Turn one row into a question with its answers."""
    question = text_of(row, columns, "question", required=True)
    context = text_of(row, columns, "context", required=True)
    if not question.strip() or not context.strip():
        raise RowFault("empty question" if not question.strip() else "empty context")
    texts, starts = _answers(row, columns)
    if len(texts) != len(starts):
        raise RowFault("not as many answer_start as answers", f"{len(starts)} for {len(texts)}")
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not isinstance(start, int) or isinstance(start, bool) or start < 0:
            raise RowFault("an answer is not text with its answer_start", f"{kind_of(text)}, {start!r}"[:60])
        if not text.strip():
            raise RowFault("empty answer")
    name = row.get(columns.get("id", ""), "")
    return Question(
        question=question,
        context=context,
        answers=tuple(texts),
        starts=tuple(starts),
        name="" if name is None else str(name),
    )


def references(row: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[str, ...]:
    """The texts of all right answers."""
    return read(row, columns).answers


def _answers(row: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[list[Any], list[Any]]:
    name = columns["answers"]
    if name not in row:
        raise RowFault(f"no column {name}")
    value = row[name]
    if isinstance(value, dict):
        return _listed(value.get("text")), _listed(value.get("answer_start"))
    if isinstance(value, list):
        if not all(isinstance(item, dict) for item in value):
            raise RowFault(f"{name} is not a list of answers with answer_start")
        return [item.get("text") for item in value], [item.get("answer_start") for item in value]
    if value is None or value == "":
        return [], []
    start = row.get(columns.get("answer_start", ""))
    if isinstance(value, str) and isinstance(start, str) and start.strip().isdecimal():  # from a CSV file
        start = int(start)
    if not isinstance(value, str) or start is None:
        raise RowFault(f"{name} is not answers with answer_start", kind_of(value))
    return [value], [start]


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
