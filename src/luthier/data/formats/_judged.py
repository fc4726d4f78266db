# SPDX-License-Identifier: Apache-2.0
"""What the formats of judged answers share: how a prompt, an answer, a grade and a score are read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from luthier.core.types import Judged, Message
from luthier.data.columns import text_of
from luthier.data.faults import RowFault, kind_of
from luthier.data.formats._question import question_of
from luthier.data.transcript import messages_of_transcript
from luthier.data.turns import conversation, messages_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Turns = list[Message] | str  # messages, or text as it stands

#: A prompt is messages, or text as it stands; an instruction becomes a user turn. Of both, `prompt` counts.
PROMPT: dict[str, tuple[str, ...]] = {
    "prompt": ("conversations", "conversation"),
    "instruction": ("question", "query"),
    "input": (),
    "system": ("system_prompt",),
    "history": (),
}


def prompt_of(row: Mapping[str, Any], columns: Mapping[str, str]) -> Turns | None:
    """Read the prompt: messages, text as it stands, or None where no column holds one.

    Raises:
        RowFault: It is of the wrong type.
    """
    if "prompt" not in columns:
        return question_of(row, columns) if "instruction" in columns else None
    name = columns["prompt"]
    value, system = row.get(name), text_of(row, columns, "system")
    if isinstance(value, list):
        messages: list[Message] | None = messages_of(value)
    elif isinstance(value, str):
        messages = messages_of_transcript(value)
        if messages and messages[-1].role == "assistant" and not messages[-1].content:
            messages.pop()  # "Assistant:" at the end asks for the answer
    else:
        raise RowFault(f"{name} is neither text nor a list of messages" if name in row else f"no column {name}")
    if messages is None:
        if system.strip():
            raise RowFault("a system prompt beside a prompt that is text as it stands")
        return str(value)
    if system.strip():
        if messages and messages[0].role == "system":
            raise RowFault("a system column and a system turn")
        messages.insert(0, Message(role="system", content=system))
    return messages


def answer_of(value: Any, name: str, prompt: Turns) -> Turns:
    """Read one answer, in the prompt's kind: text as it stands, or messages; text after messages is one turn.

    Raises:
        RowFault: It is of the wrong type, or empty.
    """
    if isinstance(value, str):
        if not value.strip():
            raise RowFault("empty answer", name)
        return value if isinstance(prompt, str) else [Message(role="assistant", content=value)]
    if isinstance(prompt, str) or not isinstance(value, list | dict):
        allowed = "text, as the prompt is" if isinstance(prompt, str) else "text, a message or a list of messages"
        raise RowFault(f"{name} is not {allowed}", kind_of(value))
    return messages_of(value if isinstance(value, list) else [value])


def judged(
    prompt: Turns, answers: Sequence[Turns], grades: Sequence[float], scores: Sequence[float] | None = None
) -> Judged:
    """Check the turns of every branch and put them together.

    Raises:
        RowFault: The prompt is empty, or a branch breaks the rule of turns.
    """
    if not prompt:
        raise RowFault("no prompt that all answers share")
    found: list[tuple[Message, ...] | str] = []
    for answer in answers:
        if isinstance(prompt, str) or isinstance(answer, str):
            assert isinstance(answer, str), "answer_of gives the prompt's kind"
            found.append(answer)
        else:
            conversation([*prompt, *answer])
            found.append(tuple(answer))
    before = prompt if isinstance(prompt, str) else tuple(prompt)
    told = tuple(map(float, scores)) if scores is not None else None
    return Judged(prompt=before, answers=tuple(found), grades=tuple(map(float, grades)), scores=told)


def number_of(value: Any, name: str) -> float:
    """Read a number; text of one, as CSV files have it, will do.

    Raises:
        RowFault: It is none, or not finite.
    """
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RowFault(f"{name} is not a number", repr(value)[:40])
    return number
