# SPDX-License-Identifier: Apache-2.0
"""Texts that belong together: an anchor with its positives and negatives, or two texts with or without a score.

`anchor` (or `query`, `question`), `positive` (or `pos`, `answer` ...) and `negative` (`neg`, `negatives`,
`negative_1` ...), each a text or a list of texts; or `sentence1` and `sentence2` with `score` (or `similarity`,
`label`). Two sentences without a score are an anchor and its positive.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from luthier.core.tasks import Texts
from luthier.data.columns import told
from luthier.data.faults import RowFault, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping

ROWS = "texts"
COLUMNS: dict[str, tuple[str, ...]] = {
    "anchor": ("query", "question", "premise"),
    "positive": ("pos", "positives", "answer", "response", "passage", "document", "entailment"),
    "negative": ("neg", "negatives", "hard_negative", "hard_negatives", "contradiction"),
    "sentence1": ("text1",),
    "sentence2": ("text2",),
    "score": ("similarity", "similarity_score", "label"),
}
REQUIRED = ()
_NUMBERED = re.compile(r"negative_\d+")


def find(columns: frozenset[str]) -> dict[str, str]:
    """Find the texts, `negative_1`, `negative_2` ... among them."""
    return told(COLUMNS, columns) | {name: name for name in sorted(columns) if _NUMBERED.fullmatch(name)}


def matches(columns: frozenset[str]) -> bool:
    """Whether there are an anchor and its positive, or two sentences, and no other kind of text."""
    found = find(columns)
    anchored, two = {"anchor", "positive"} <= set(found), {"sentence1", "sentence2"} <= set(found)
    return (anchored or two) and not columns & {"answers", "context", "instruction"}


def read(row: Mapping[str, Any], columns: Mapping[str, str]) -> Texts:
    """Turn one row into texts with grades or a score."""
    if "anchor" in columns:
        return _anchored(row, columns)
    if not {"sentence1", "sentence2"} <= set(columns):
        raise RowFault("neither anchor and positive nor sentence1 and sentence2")
    texts = tuple(text for name in ("sentence1", "sentence2") for text in _texts(row, columns[name])[:1])
    if len(texts) != 2:
        raise RowFault("not two texts")
    if "score" not in columns:
        return Texts(texts=texts, grades=(math.nan, 1.0))
    return Texts(texts=texts, grades=(math.nan, math.nan), score=_score(row.get(columns["score"]), columns["score"]))


def _anchored(row: Mapping[str, Any], columns: Mapping[str, str]) -> Texts:
    anchor = _texts(row, columns["anchor"])
    positives = _texts(row, columns["positive"]) if "positive" in columns else []
    if len(anchor) != 1 or not positives:
        raise RowFault("no anchor" if len(anchor) != 1 else "no positive")
    given = [columns["negative"]] if "negative" in columns else []
    given += [name for name in columns.values() if _NUMBERED.fullmatch(name) and name not in given]
    negatives = [text for name in given if row.get(name) is not None for text in _texts(row, name)]
    grades = (math.nan, *[1.0] * len(positives), *[0.0] * len(negatives))
    return Texts(texts=(*anchor, *positives, *negatives), grades=grades)


def _texts(row: Mapping[str, Any], name: str) -> list[str]:
    """The texts of one column: one, or a list of them."""
    if name not in row:
        raise RowFault(f"no column {name}")
    value = row[name]
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        if not isinstance(text, str):
            raise RowFault(f"{name} is not text", kind_of(text))
        if not text.strip():
            raise RowFault("empty text")
    return list(texts)


def _score(value: object, name: str) -> float:
    try:
        score = float(value) if isinstance(value, str | int | float) else math.nan
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise RowFault(f"{name} is not a number", "null" if value is None else repr(value)[:40])
    return score
