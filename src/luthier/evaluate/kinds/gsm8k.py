# SPDX-License-Identifier: Apache-2.0
"""Word problems whose answer is a number, in GSM8K's form: the number after `####`, or the last one of the reply.

    strict_match      the number after the reply's first `####` is the answer; without one the reply is wrong
    flexible_extract  the last number of the reply is the answer

Thousands commas, dollar signs and a full stop behind a number do not count; `18.00` and `18` are the same number. These
are the filters and names of lm-evaluation-harness, which compares texts: for it `18.00` is another answer than `18`.

Reference:
    Cobbe et al., Training Verifiers to Solve Math Word Problems, arXiv 2110.14168: the data set and its `####`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from luthier.core.errors import DataError
from luthier.evaluate.items import Item, Said
from luthier.evaluate.judged import Judged
from luthier.evaluate.prompts import ReplyKeys, examples, replies, turns
from luthier.evaluate.rows import Items, fill, marks, read_rows
from luthier.recipe.schema import Positive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.core.tasks import RowKind
    from luthier.core.types import Message
    from luthier.evaluate.prompts import Setting
    from luthier.evaluate.rows import Row
    from luthier.evaluate.suite import Suite

_STRICT = re.compile(r"#### *(-?\$?[0-9.,]+)")
_FLEXIBLE = re.compile(r"-?\$?[0-9][0-9.,]*|-?\$?\.[0-9]+")


class Config(ReplyKeys):
    """Keys of the kind."""

    prompt: str = "Question: {question}\nAnswer:"
    """What is asked, with columns in braces."""
    answer: str = "{answer}"
    """The answer, likewise: a solution that ends in `#### 18`, or the number alone."""
    max_new_tokens: Positive = 256
    """Longest reply."""
    until: tuple[str, ...] = ("Question:",)
    """Texts that end a reply: what follows the first of them is cut off."""
    metric: Literal["strict_match", "flexible_extract"] = "strict_match"
    """What is reported first."""


@dataclass(frozen=True, kw_only=True)
class NumberItem(Item):
    """A problem.

    Attributes:
        messages: What is asked.
        answer: The number, as :func:`number` writes it.
    """

    messages: tuple[Message, ...]
    answer: str


def read(keys: Config, where: str, limit: int | None, rows: RowKind | None) -> Items:  # noqa: ARG001 - any model
    """Problems and their numbers."""
    found, left = read_rows(keys, where, limit)
    shots = examples(keys, where, lambda row: _texts(keys, row))
    items = []
    for row in found:
        question, solution = _texts(keys, row)
        answer = strict(solution) if "####" in solution else number(solution)
        if answer is None:
            raise DataError(
                row[0], f"answer {solution[-40:]!r}", "a number, or a text that ends in #### and one", "mend"
            )
        items.append(NumberItem(messages=turns(question, shots), answer=answer, **marks(keys, row[1], row[0])))
    return Items(every=tuple(items), left=left)


def _texts(keys: Config, row: Row) -> tuple[str, str]:
    where, columns = row
    return fill(keys.prompt, columns, where), fill(keys.answer, columns, where)


def number(text: str) -> str | None:
    """A number in one way of writing: no thousands commas, dollar signs, full stop behind it or needless zeros.

    Example:
        >>> number("$1,234.50"), number("18."), number("-0.0"), number("eighteen")
        ('1234.5', '18', '0', None)
    """
    bare = text.strip().replace(",", "").replace("$", "").rstrip(".")
    try:
        value = Decimal(bare)
    except InvalidOperation:
        return None
    if not value.is_finite():
        return None
    return "0" if value == 0 else f"{value.normalize():f}"


def strict(reply: str) -> str | None:
    """The number after the first `####`; None where there is none.

    Example:
        >>> strict("9 * 2 = 18. #### $1,218."), strict("It is 18.")
        ('1218', None)
    """
    found = _STRICT.search(reply)
    return number(found[1]) if found else None


def flexible(reply: str) -> str | None:
    """The last number; None where there is none.

    Example:
        >>> flexible("So 3 boxes cost $1,200.00."), flexible("#### 18 eggs, not 20"), flexible("none")
        ('1200', '20', None)
    """
    found = _FLEXIBLE.findall(reply)
    return number(found[-1]) if found else None


def ask(model: Any, tokenizer: Any, suite: Suite, setting: Setting) -> Said:
    """What the model replies, and the numbers in it."""
    items: Sequence[NumberItem] = suite.items  # type: ignore[assignment]  # as `read` made them
    rows = []
    written = replies(model, tokenizer, suite.keys, [item.messages for item in items], setting)
    for item, reply in zip(items, written, strict=True):
        said = {"prompt": item.messages[-1].content, "reply": reply.text, "answer": item.answer, "ended": reply.ended}
        rows.append({**said, "strict": strict(reply.text), "flexible": flexible(reply.text)})
    return Said(rows=rows, notes={"batch_size": setting.batch_size})


def judge(keys: Config, items: Sequence[NumberItem], said: Said) -> Judged:
    """The share of right numbers, found in either way."""
    names = {"strict_match": "strict", "flexible_extract": "flexible"}
    pairs = list(zip(items, said.rows, strict=True))
    values = {
        metric: np.array([row[column] == item.answer for item, row in pairs], np.float64)
        for metric, column in names.items()
    }
    metrics = {name: float(right.mean()) for name, right in values.items()}
    return Judged(metric=keys.metric, metrics=metrics, values=values[keys.metric])
