# SPDX-License-Identifier: Apache-2.0
"""Questions with exact answers: the reply is written greedily and checked (equal, one of several, number ...).

A row holds what is asked (`prompt`; or `instruction` with an optional `input`; or `messages`), the `answer` (or
`output`), and optionally `check`, `category` and `group`; or the suite says which columns they are made of.
A reply that has not ended by itself within `max_new_tokens` is wrong, even if it holds the answer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from luthier.core.errors import DataError
from luthier.core.types import ROLES, Message
from luthier.evaluate.exact import ExactItem, is_right, make_item
from luthier.evaluate.items import Said
from luthier.evaluate.judged import Judged
from luthier.evaluate.prompts import BETWEEN, ReplyKeys, examples, replies, turns
from luthier.evaluate.rows import Items, fill, marks, read_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from luthier.core.tasks import RowKind
    from luthier.evaluate.prompts import Setting
    from luthier.evaluate.rows import Row
    from luthier.evaluate.suite import Suite


class Config(ReplyKeys):
    """Keys of the kind."""

    prompt: str | None = None
    """What is asked, with columns in braces: `{input}`; default the row's own `prompt`, `instruction`, `messages`."""
    answer: str | None = None
    """What is right, likewise: `{target}`; default the row's own `answer` or `output`."""
    check: Literal["exact", "one_of", "contains_all", "number"] | None = None
    """How a reply is compared; default the row's own `check`, or `exact`."""
    delimiter: str = "\n"
    """In plain text, what stands between a question and its answer."""
    metric: Literal["exact_match"] = "exact_match"
    """What is reported first."""


def read(keys: Config, where: str, limit: int | None, rows: RowKind | None) -> Items:  # noqa: ARG001 - any model
    """Questions and answers."""
    shots = examples(keys, where, lambda row: _shot(keys, row))
    found, left = read_rows(keys, where, limit)
    items = []
    for row in found:
        item = _item(keys, row)
        ahead = turns("", shots)[:-1]
        items.append(replace(item, messages=(*ahead, *item.messages)) if ahead else item)
    return Items(every=tuple(items), left=left)


def _item(keys: Config, row: Row) -> ExactItem:
    where, columns = row
    given = dict(columns)
    if keys.answer is not None:
        given["answer"] = fill(keys.answer, columns, where)
    if keys.check is not None:
        given["check"] = keys.check
    given |= {name: mark for name, mark in marks(keys, columns, where).items() if mark}
    if keys.prompt is not None:
        return make_item(given, (Message(role="user", content=fill(keys.prompt, columns, where)),), where)
    return make_item(given, _messages(columns, where), where)


def _shot(keys: Config, row: Row) -> tuple[str, str]:
    item = _item(keys, row)
    answer = item.answer if isinstance(item.answer, str) else item.answer[0]
    return BETWEEN.join(message.content for message in item.messages), answer


def _messages(row: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    if isinstance(row.get("messages"), list):
        messages = []
        for turn in row["messages"]:
            if not isinstance(turn, dict) or turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
                raise DataError(where, f"message {turn!r}", f"role (one of {', '.join(ROLES)}) and content, both texts")
            messages.append(Message(role=turn["role"], content=turn["content"]))
        while messages and messages[-1].role == "assistant":
            messages.pop()  # what the model is to say
        if messages:
            return tuple(messages)
    asked = row.get("prompt") or "\n".join(filter(None, (row.get("instruction"), row.get("input"))))
    if not isinstance(asked, str) or not asked:
        columns = ", ".join(column for column in row if column != "file")
        raise DataError(where, f"columns {columns}", "prompt, or instruction (and input), or messages")
    return (Message(role="user", content=asked),)


def ask(model: Any, tokenizer: Any, suite: Suite, setting: Setting) -> Said:
    """What the model replies."""
    keys: Config = suite.keys
    items: Sequence[ExactItem] = suite.items  # type: ignore[assignment]  # as `read` made them
    written = replies(model, tokenizer, keys, [item.messages for item in items], setting, keys.delimiter)
    rows = []
    for item, reply in zip(items, written, strict=True):
        asked = "\n".join(message.content for message in item.messages)
        row = {"prompt": asked, "reply": reply.text, "answer": item.answer, "check": item.check}
        rows.append({**row, "ended": reply.ended, "right": reply.ended and is_right(reply.text, item)})
    return Said(rows=rows, notes={"batch_size": setting.batch_size})


def judge(keys: Config, items: Sequence[ExactItem], said: Said) -> Judged:  # noqa: ARG001
    """The share of right replies."""
    values = np.array([row["right"] for row in said.rows], np.float64)
    return Judged(metric="exact_match", metrics={"exact_match": float(values.mean())}, values=values)
