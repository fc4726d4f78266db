# SPDX-License-Identifier: Apache-2.0
"""Preference pairs: a prompt, a chosen and a rejected answer.

The prompt is a column (`prompt`: messages or text as it stands; `instruction` + `input`; `conversations`), or what both
answers begin with. Answers are messages, one message, or text. Transcripts "Human: ... Assistant: ..." become messages.
A `margin`, or `score_chosen` and `score_rejected`, are kept as scores; a margin m is the scores (m, 0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.types import Message
from luthier.data.columns import told
from luthier.data.faults import RowFault
from luthier.data.formats._judged import PROMPT, answer_of, judged, number_of, prompt_of
from luthier.data.transcript import messages_of_transcript

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.core.types import Judged
    from luthier.data.formats._judged import Turns

ROWS = "judged"
COLUMNS: dict[str, tuple[str, ...]] = PROMPT | {
    "chosen": ("chosen_messages", "response_j"),
    "rejected": ("rejected_messages", "response_k"),
    "margin": (),
    "score_chosen": ("chosen_score", "chosen_rating", "chosen-rating"),
    "score_rejected": ("rejected_score", "rejected_rating", "rejected-rating"),
}
REQUIRED = ("chosen", "rejected")


def matches(columns: frozenset[str]) -> bool:
    """Whether there is one column of chosen and one of rejected answers."""
    found = told(COLUMNS, columns)
    return all(name in found for name in REQUIRED)


def read(row: Mapping[str, Any], columns: Mapping[str, str]) -> Judged:
    """Turn one row into a pair with the grades 1 and 0."""
    values = [row.get(columns[name]) for name in REQUIRED]
    for name, value in zip(REQUIRED, values, strict=True):
        if value is None or value == []:
            raise RowFault(f"no column {columns[name]}" if columns[name] not in row else f"empty {columns[name]}")
    prompt, answers = _split(prompt_of(row, columns), values, columns)
    return judged(prompt, answers, (1.0, 0.0), _scores(row, columns))


def _split(prompt: Turns | None, values: list[Any], columns: Mapping[str, str]) -> tuple[Turns, list[Turns]]:
    """Find what is prompt and what is answer."""
    if prompt is None and all(isinstance(value, str) for value in values):
        transcripts = [messages_of_transcript(value) for value in values]
        if None in transcripts:
            return _common_text(values)
        return _common_turns([turns for turns in transcripts if turns is not None])
    lists = [isinstance(value, list) for value in values]
    if isinstance(prompt, str) and any(lists):
        return _repeated(prompt, [_turns(value, columns, i) for i, value in enumerate(values)])
    if prompt is None:
        return _common_turns([_turns(value, columns, i) for i, value in enumerate(values)])
    answers = [answer_of(value, columns[name], prompt) for name, value in zip(REQUIRED, values, strict=True)]
    if all(lists) and all(_same(answer[: len(prompt)], prompt) for answer in answers):
        answers = [answer[len(prompt) :] for answer in answers]
    return prompt, answers


def _turns(value: Any, columns: Mapping[str, str], place: int) -> list[Message]:
    turns = answer_of(value, columns[REQUIRED[place]], [])
    assert not isinstance(turns, str)
    return turns


def _repeated(prompt: str, answers: list[list[Message]]) -> tuple[Turns, list[Turns]]:
    """A prompt as text, and answers as messages that repeat it (as in UltraFeedback) or do not."""
    if all(answer[0].role == "assistant" for answer in answers):
        return [Message(role="user", content=prompt)], list(answers)
    common, rest = _common_turns(answers)
    if not any(isinstance(turn, Message) and turn.content.strip() == prompt.strip() for turn in common):
        raise RowFault("the prompt is not among the messages that both answers begin with")
    return common, rest


def _common_turns(answers: list[list[Message]]) -> tuple[Turns, list[Turns]]:
    """Take the turns that both begin with as the prompt; each keeps its last."""
    chosen, rejected = answers
    most = max(0, min(len(chosen), len(rejected)) - 1)
    common = next((i for i in range(most) if not _same(chosen[i : i + 1], rejected[i : i + 1])), most)
    return chosen[:common], [chosen[common:], rejected[common:]]


def _common_text(values: list[str]) -> tuple[Turns, list[Turns]]:
    """Take the characters that both begin with, to the end of a word, as the prompt."""
    chosen, rejected = values
    shorter = min(len(chosen), len(rejected))
    common = next((i for i in range(shorter) if chosen[i] != rejected[i]), shorter)
    if common == shorter:
        raise RowFault("one answer is the beginning of the other", "give the prompt in a column of its own")
    while common and not chosen[common - 1].isspace():
        common -= 1
    while common and chosen[common - 1] == " ":  # tokens hold the space in front of a word
        common -= 1
    return chosen[:common], [chosen[common:], rejected[common:]]


def _same(first: Turns, second: Turns) -> bool:
    told = [[(m.role, m.content) for m in turns if isinstance(m, Message)] for turns in (first, second)]
    return told[0] == told[1]


def _scores(row: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[float, float] | None:
    names = [columns[name] for name in ("score_chosen", "score_rejected") if name in columns]
    found = [(row[name], name) for name in names if row.get(name) is not None]
    if len(found) == 1:
        raise RowFault("a score of one answer, but none of the other", found[0][1])
    if found:
        return number_of(*found[0]), number_of(*found[1])
    name = columns.get("margin", "")
    margin = row.get(name)
    return None if margin is None else (number_of(margin, name), 0.0)
