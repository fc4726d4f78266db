# SPDX-License-Identifier: Apache-2.0
"""Ranked lists: a prompt and several answers, with a rank (1 is best) or a score for each; ties are allowed.

Answers are a list (`answers`, `responses`, `completions`, `outputs`) of texts, messages, or objects that hold the text
and its `rank` or `score` themselves, as in Nectar. Where there are ranks and scores, the ranks are the grades. A list
in which all are tied is refused: it teaches no preference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.data.columns import told
from luthier.data.faults import RowFault, kind_of
from luthier.data.formats._judged import PROMPT, answer_of, judged, number_of, prompt_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.core.types import Judged

ROWS = "judged"
COLUMNS: dict[str, tuple[str, ...]] = PROMPT | {
    "answers": ("responses", "completions", "outputs"),
    "ranks": ("rank", "ranking"),
    "scores": ("score", "ratings", "rewards"),
}
REQUIRED = ("answers",)
TEXT, SCORE = ("answer", "response", "text"), ("score", "overall_score")  # keys of an answer that is an object


def matches(columns: frozenset[str]) -> bool:
    """Whether there is a prompt and a list of answers; extractive question answering has a `context` too."""
    found = told(COLUMNS, columns)
    return "answers" in found and ("prompt" in found or "instruction" in found) and "context" not in columns


def read(row: Mapping[str, Any], columns: Mapping[str, str]) -> Judged:
    """Turn one row into a prompt with two answers or more."""
    prompt = prompt_of(row, columns)
    if prompt is None:
        raise RowFault("no prompt and no instruction")
    name = columns["answers"]
    values = row.get(name)
    if not isinstance(values, list):
        raise RowFault(f"{name} is not a list", kind_of(values))
    if len(values) < 2:
        raise RowFault("fewer than two answers", f"{len(values)}")
    ranks, scores = _numbers(row, columns, values, "ranks", ("rank",)), _numbers(row, columns, values, "scores", SCORE)
    if ranks is None and scores is None:
        raise RowFault("neither ranks nor scores")
    grades = [-rank for rank in ranks] if ranks is not None else scores or []
    if len(set(grades)) == 1:
        raise RowFault("all answers have the same grade", f"{len(grades)} of {grades[0]:g}")
    return judged(prompt, [answer_of(_answer(value), name, prompt) for value in values], grades, scores)


def _answer(value: Any) -> Any:
    """Take the answer out of an object that also holds its rank or score; a message stays one."""
    key = next((key for key in TEXT if isinstance(value, dict) and key in value), None)
    return value if key is None else value[key]


def _numbers(
    row: Mapping[str, Any], columns: Mapping[str, str], answers: list[Any], own: str, keys: tuple[str, ...]
) -> list[float] | None:
    """One number for each answer, from a column or from the answers themselves; None where there are none."""
    name = columns.get(own, "")
    values = row.get(name)
    if values is None:
        key = next((key for key in keys if any(isinstance(item, dict) and key in item for item in answers)), None)
        return None if key is None else [number_of(item.get(key), f"{key} of an answer") for item in answers]
    if not isinstance(values, list):
        raise RowFault(f"{name} is not a list", kind_of(values))
    if len(values) != len(answers):
        raise RowFault(f"{name} and answers are of different lengths", f"{len(values)} and {len(answers)}")
    return [number_of(value, f"one of {name}") for value in values]
