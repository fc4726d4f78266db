# SPDX-License-Identifier: Apache-2.0
"""Replies against answers: each check is a pure function, named by a row of data.

A reply is stripped of the white space around it; the answer stands as the row holds it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError, did_you_mean
from luthier.evaluate.items import Item

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from luthier.core.types import Message

Answer = str | tuple[str, ...]
_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")


@dataclass(frozen=True, kw_only=True)
class ExactItem(Item):
    """A question and what counts as right.

    Attributes:
        messages: What the model is asked.
        check: A name of :data:`CHECKS`.
        answer: What the check compares with: one text, or several.
    """

    messages: tuple[Message, ...]
    check: str
    answer: Answer


def _exact(reply: str, answer: Answer) -> bool:
    return reply == answer


def _one_of(reply: str, answer: Answer) -> bool:
    return reply in answer


def _contains_all(reply: str, answer: Answer) -> bool:
    return all(part in reply for part in answer)


def _number(reply: str, answer: Answer) -> bool:
    found = _NUMBER.findall(reply)
    return bool(found) and found[-1].replace(",", "") == answer


@dataclass(frozen=True)
class Check:
    """How a reply is judged.

    Attributes:
        judge: Reply (stripped) and answer -> right or wrong.
        several: The answer is a list of texts, not one.
        text: What it does, for messages.
    """

    judge: Callable[[str, Answer], bool]
    several: bool
    text: str


CHECKS: dict[str, Check] = {
    "exact": Check(_exact, False, "the reply equals the answer"),
    "one_of": Check(_one_of, True, "the reply equals one of the answers"),
    "contains_all": Check(_contains_all, True, "every answer occurs in the reply"),
    "number": Check(_number, False, "the last number of the reply is the answer"),
}


def make_item(row: Mapping[str, Any], messages: tuple[Message, ...], where: str) -> ExactItem:
    """Build an item from a row's `check`, `answer` (or `output`), `category` and `group`.

    Raises:
        DataError: The check is unknown, or the answer does not fit it.
    """
    name = row.get("check", "exact")
    if name not in CHECKS:
        raise DataError(where, f"unknown check {name!r}", did_you_mean(str(name), CHECKS))
    answer = row.get("answer", row.get("output"))
    several = CHECKS[name].several
    texts = answer if several else [answer]
    if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
        wanted = "a list of texts" if several else "a text"
        raise DataError(where, f"answer {answer!r}", f"{wanted}, as the check {name!r} needs ({CHECKS[name].text})")
    return ExactItem(
        messages=messages,
        check=name,
        answer=tuple(answer) if isinstance(answer, list) else str(answer),
        category=str(row.get("category") or ""),
        group=str(row["group"]) if row.get("group") is not None else "",
    )


def is_right(reply: str, item: ExactItem) -> bool:
    """Judge one reply; white space around it does not count, case does.

    Example:
        >>> is_right(" Paris ", ExactItem(messages=(), check="exact", answer="Paris"))
        True
    """
    return CHECKS[item.check].judge(reply.strip(), item.answer)
