# SPDX-License-Identifier: Apache-2.0
"""Answers with a label, good (1, true) or bad (0, false): one answer a row, as KTO takes them.

`label` (also `kto_tag`, `reward`) beside `prompt` + `completion` (messages, or text as it stands), `messages` or
`conversations` that end with the answer, or `instruction` + `input` + `output`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.data.columns import told
from luthier.data.faults import RowFault, kind_of
from luthier.data.formats._judged import PROMPT, answer_of, judged, prompt_of
from luthier.data.turns import messages_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.core.types import Judged, Message

ROWS = "judged"
COLUMNS: dict[str, tuple[str, ...]] = PROMPT | {
    "prompt": ("context",),
    "completion": ("output", "response", "answer", "generation"),
    "messages": ("conversations", "conversation"),
    "label": ("kto_tag", "reward"),
}
REQUIRED = ("label",)
LABELS = {"1": 1.0, "true": 1.0, "1.0": 1.0, "0": 0.0, "false": 0.0, "0.0": 0.0}


def matches(columns: frozenset[str]) -> bool:
    """Whether there is a label, and what it labels."""
    found = told(COLUMNS, columns)
    answered = "completion" in found and ("prompt" in found or "instruction" in found)
    return "label" in found and (answered or "messages" in found) and not columns & {"chosen", "rejected"}


def read(row: Mapping[str, Any], columns: Mapping[str, str]) -> Judged:
    """Turn one row into a prompt with one answer of grade 1 or 0."""
    name = columns["label"]
    value = row.get(name)
    label = LABELS.get(str(value).strip().lower())
    if label is None:
        raise RowFault(f"{name} is not 0, 1, true or false", "null" if value is None else repr(value)[:40])
    if "completion" in columns:
        prompt = prompt_of(row, columns)
        if prompt is None:
            raise RowFault("a completion without prompt or instruction")
        return judged(prompt, [answer_of(row.get(columns["completion"]), columns["completion"], prompt)], [label])
    if "messages" not in columns:
        raise RowFault("neither completion nor messages")
    turns = _messages(row, columns)
    return judged(turns[:-1], [turns[-1:]], [label])


def _messages(row: Mapping[str, Any], columns: Mapping[str, str]) -> list[Message]:
    value = row.get(columns["messages"])
    if not isinstance(value, list):
        raise RowFault(f"{columns['messages']} is not a list", kind_of(value))
    turns = prompt_of(row, {"prompt": columns["messages"]} | {k: v for k, v in columns.items() if k == "system"})
    return turns if isinstance(turns, list) else messages_of(value)
