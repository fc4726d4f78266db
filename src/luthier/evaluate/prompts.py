# SPDX-License-Identifier: Apache-2.0
"""Asking a model in words: as a chat or as plain text, after examples or without, and where its reply is cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.core.errors import RecipeError
from luthier.core.types import Message
from luthier.evaluate.rows import OneSource, RowKeys, read_rows
from luthier.recipe.schema import NonNegative, Positive

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from luthier.evaluate.rows import Row

BATCH_SIZE = 100
BETWEEN = "\n\n"  # examples, and the last of them and the question, in plain text


class PromptKeys(RowKeys):
    """What kinds of suites can be told that ask in words."""

    chat: bool = True
    """Ask as the user of a chat, in the model's template; false: as plain text, for base models."""
    system: str | None = None
    """System prompt of items that have none; the one that a run was trained with comes after it."""
    num_fewshot: NonNegative = 0
    """So many rows of `fewshot` stand before each question with their answers, always the first ones."""
    fewshot: OneSource | None = None
    """Rows that examples are taken from, with the columns of `data`; never its own rows."""


class ReplyKeys(PromptKeys):
    """What kinds of suites can be told whose answers are written."""

    max_new_tokens: Positive = 32
    """Longest reply."""
    until: tuple[str, ...] = ()
    """Texts that end a reply: what follows the first of them is cut off."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a call says beside the suite.

    Attributes:
        batch_size: Items generated at a time.
        max_new_tokens: Longest reply, in the place of the suite's own.
        system: System prompt where neither an item nor its suite has one (the recipe's `data.system`).
        folder: What was loaded: a model that was trained for a task has its purpose beside its weights.
    """

    batch_size: int = BATCH_SIZE
    max_new_tokens: int | None = None
    system: str | None = None
    folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model wrote.

    Attributes:
        text: Up to the first of the suite's stops.
        ended: It stopped by itself, or at a stop, before the limit.
    """

    text: str
    ended: bool


def examples(keys: PromptKeys, where: str, answer: Callable[[Row], tuple[str, str]]) -> list[tuple[str, str]]:
    """Questions with their answers that stand before each item.

    Args:
        keys: Of the suite.
        where: The suite, for messages.
        answer: A row's question and answer.

    Raises:
        DataError: There are too few rows.
        RecipeError: One of the two keys is there without the other.
    """
    if (keys.fewshot is None) != (keys.num_fewshot == 0):
        received = f"num_fewshot {keys.num_fewshot} {'without' if keys.fewshot is None else 'with'} fewshot"
        raise RecipeError(where, received, "both, or neither", "name the rows that examples are taken from")
    if keys.fewshot is None:
        return []
    rows, _ = read_rows(keys.model_copy(update={"data": keys.fewshot}), f"{where}, fewshot", keys.num_fewshot)
    if len(rows) < keys.num_fewshot:
        raise RecipeError(f"{where}.num_fewshot", f"{keys.num_fewshot} of {len(rows)} rows", "as many as there are")
    return [answer(row) for row in rows]


def turns(prompt: str, shots: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """Examples as earlier turns, then the question."""
    earlier: list[Message] = []
    for question, answer in shots:
        earlier += [Message(role="user", content=question), Message(role="assistant", content=answer)]
    return (*earlier, Message(role="user", content=prompt))


def plain(messages: Sequence[Message], delimiter: str) -> str:
    """The same as plain text: answers stand behind their questions."""
    text = ""
    for message in messages:
        between = "" if not text else delimiter if message.role == "assistant" else BETWEEN
        text += between + message.content
    return text


def asked(messages: Sequence[Message], *systems: str | None) -> list[dict[str, str]]:
    """A conversation as chat templates take it, with the first system prompt that is not None where it has none."""
    said = [{"role": message.role, "content": message.content} for message in messages]
    system = next((one for one in systems if one is not None), None)
    if system is not None and said[0]["role"] != "system":
        said.insert(0, {"role": "system", "content": system})
    return said


def replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    keys: ReplyKeys,
    questions: Sequence[Sequence[Message]],
    setting: Setting,
    delimiter: str = " ",
) -> list[Reply]:
    """What a model writes, the likeliest token each time.

    Args:
        model: With its method applied, or plain.
        tokenizer: Its tokenizer.
        keys: How it is asked.
        questions: Conversations that end before the reply.
        setting: Of the call.
        delimiter: In plain text, between a question and its answer.
    """
    from luthier.models.generate import generate

    most = setting.max_new_tokens or keys.max_new_tokens
    prompts: list[Any]
    if keys.chat:
        prompts = [asked(messages, keys.system, setting.system) for messages in questions]
    else:
        prompts = [plain(messages, delimiter) for messages in questions]
    words: dict[str, Any] = {"max_new_tokens": most, "batch_size": setting.batch_size}
    if not keys.chat:
        words["raw"] = True
    return [cut(tokenizer, text, keys.until, most) for text in generate(model, tokenizer, prompts, **words)]


def cut(tokenizer: PreTrainedTokenizerBase, text: str, until: Sequence[str], limit: int) -> Reply:
    """Cut a reply at its first stop; without one, whether it ended by itself is told by its length.

    Args:
        tokenizer: That wrote it.
        text: The reply.
        until: Stops.
        limit: Tokens that it could have.

    Generation gives no more than the text, which may have a token less than was generated, where a space at its end
    was stripped.
    """
    places = [place for stop in until if stop and (place := text.find(stop)) >= 0]
    if places:
        return Reply(text=text[: min(places)], ended=True)
    count = len(tokenizer(f" {text}", add_special_tokens=False)["input_ids"])
    return Reply(text=text, ended=count < limit - 1)
