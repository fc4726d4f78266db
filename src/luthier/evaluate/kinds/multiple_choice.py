# SPDX-License-Identifier: Apache-2.0
"""Multiple choice by log-probability: of several continuations the likeliest, as a whole or for its length.

    acc       the choice with the greatest log-probability is the right one
    acc_norm  likewise of log-probability / characters of the choice, as lm-evaluation-harness has it
    f1_macro  of `acc`'s choices, where all items have the same choices: a classification

The choices of a question are children of it in one tree, so the question is read once. Where each choice is a context
of its own before one ending (WinoGrande), the ending is what is scored: `contexts` and `continuation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from luthier.core.errors import DataError, RecipeError
from luthier.data.faults import kind_of
from luthier.evaluate.continuations import Branch, plant_branches
from luthier.evaluate.items import Item, Said
from luthier.evaluate.judged import Judged
from luthier.evaluate.prompts import PromptKeys, asked, examples, plain, turns
from luthier.evaluate.rows import Items, fill, marks, read_rows, text_in
from luthier.evaluate.shares import of_lists
from luthier.metrics.f1 import f1

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from luthier.core.tasks import RowKind
    from luthier.core.types import Message
    from luthier.evaluate.prompts import Setting
    from luthier.evaluate.rows import Row
    from luthier.evaluate.suite import Suite

LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Config(PromptKeys):
    """Keys of the kind."""

    chat: bool = False
    """Ask as the user of a chat, in the model's template: choices are then replies; false: as plain text."""
    prompt: str = "{query}"
    """What stands before a choice, with columns in braces."""
    choices: str | tuple[str, ...] = "choices"
    """The column with the choices (a list, or ARC's `{text, label}`), or the same ones for every row."""
    gold: str = "gold"
    """The column that says which is right: its place from 0, its text, or its label or letter."""
    delimiter: str = " "
    """Between the prompt and a choice, in plain text."""
    contexts: str | None = None
    """Instead of prompt and choices: the column with a list of contexts, one of which the ending fits."""
    continuation: str = "{continuation}"
    """The ending, where there are `contexts`."""
    metric: Literal["acc", "acc_norm", "f1_macro"] = "acc"
    """What is reported first."""


@dataclass(frozen=True, kw_only=True)
class ChoiceItem(Item):
    """A question with its choices.

    Attributes:
        where: The row, for messages.
        messages: What is asked; empty where contexts are the choices.
        choices: What may be right.
        gold: The place of what is.
        ending: What follows each of the choices, where they are contexts.
    """

    where: str
    messages: tuple[Message, ...]
    choices: tuple[str, ...]
    gold: int
    ending: str = ""


def read(keys: Config, where: str, limit: int | None, rows: RowKind | None) -> Items:  # noqa: ARG001 - any model
    """Questions, choices and which of them is right."""
    if keys.contexts is not None and (keys.chat or keys.num_fewshot):
        received = "contexts with chat or num_fewshot"
        raise RecipeError(where, received, "contexts are read as plain text", "remove one of them")
    if keys.metric == "f1_macro" and isinstance(keys.choices, str):
        raise RecipeError(f"{where}.metric", "f1_macro", "choices: a list that all rows share", "give one, or take acc")
    found, left = read_rows(keys, where, limit)
    shots = examples(keys, where, lambda row: _shot(keys, row))
    return Items(every=tuple(_item(keys, row, shots) for row in found), left=left)


def _item(keys: Config, row: Row, shots: Sequence[tuple[str, str]]) -> ChoiceItem:
    where, columns = row
    own = marks(keys, columns, where)
    choices, labels = _choices(keys, columns, where)
    gold = _gold(keys, columns, choices, labels, where)
    if keys.contexts is not None:
        ending = keys.delimiter + fill(keys.continuation, columns, where)
        return ChoiceItem(where=where, messages=(), choices=choices, gold=gold, ending=ending, **own)
    messages = turns(fill(keys.prompt, columns, where), shots)
    return ChoiceItem(where=where, messages=messages, choices=choices, gold=gold, **own)


def _shot(keys: Config, row: Row) -> tuple[str, str]:
    item = _item(keys, row, ())
    return item.messages[-1].content, item.choices[item.gold]


def _choices(keys: Config, columns: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], list[str]]:
    """The choices, and what rows may call them."""
    if not isinstance(keys.choices, str):
        return keys.choices, list(LABELS)
    name = keys.contexts or keys.choices
    if name not in columns:
        known = ", ".join(column for column in columns if column != "file")
        raise DataError(where, f"no column {name!r}", f"its columns: {known}", "name it: choices: COLUMN")
    value, labels = columns[name], list(LABELS)
    if isinstance(value, dict) and isinstance(value.get("text"), list) and isinstance(value.get("label"), list):
        value, labels = value["text"], [str(label) for label in value["label"]]
    if not isinstance(value, list) or len(value) < 2:
        received = f"{name} is {kind_of(value)}" if not isinstance(value, list) else f"{len(value)} choices"
        raise DataError(where, received, "a list of two choices at least", "name another column")
    return tuple(text_in(one, name, where) for one in value), labels


def _gold(keys: Config, columns: Mapping[str, Any], choices: Sequence[str], labels: Sequence[str], where: str) -> int:
    given = columns.get(keys.gold)
    if isinstance(given, bool):
        given = int(given)
    if isinstance(given, str):
        for names in (choices, labels[: len(choices)]):
            if given in names:
                return list(names).index(given)
        given = int(given) if given.strip().isdecimal() else given
    if isinstance(given, int) and 0 <= given < len(choices):
        return given
    received = f"{keys.gold}: {given!r}" if keys.gold in columns else f"no column {keys.gold!r}"
    raise DataError(where, received, "a choice, by its place from 0, its text or its letter", "name it: gold: COLUMN")


def ask(model: Any, tokenizer: Any, suite: Suite, setting: Setting) -> Said:
    """Log-probability of each choice."""
    from luthier.evaluate.scored import longest_branch, need_causal, score_trees

    need_causal(model)
    keys: Config = suite.keys
    items: Sequence[ChoiceItem] = suite.items  # type: ignore[assignment]  # as `read` made them
    limit = longest_branch(model)
    words: dict[str, Any] = {"templated": keys.chat, "limit": limit}
    planted = [
        plant_branches(tokenizer, _branches(keys, tokenizer, item, setting), item.where, **words) for item in items
    ]
    found = score_trees(model, [one.tree for one in planted])
    rows = []
    for item, (_, *scores) in zip(items, found, strict=True):
        logprobs = [one.total for one in scores]
        lengths = [max(len(choice), 1) for choice in item.choices]
        normed = [total / length for total, length in zip(logprobs, lengths, strict=True)]
        row = {"prompt": item.messages[-1].content if item.messages else item.ending.strip(), "choices": item.choices}
        picked = {"picked": int(np.argmax(logprobs)), "picked_norm": int(np.argmax(normed))}
        rows.append({**row, "logprobs": logprobs, "gold": item.gold, **picked})
    cut = sum(one.cut > 0 for one in planted)
    return Said(rows=rows, notes={"cut": cut} if cut else {})


def _branches(keys: Config, tokenizer: Any, item: ChoiceItem, setting: Setting) -> list[Branch]:
    if item.ending:
        return [Branch(context=context, continuation=item.ending) for context in item.choices]
    if keys.chat:
        from luthier.evaluate.chats import rendered

        context, between = rendered(tokenizer, asked(item.messages, keys.system, setting.system), item.where), ""
    else:
        context, between = plain(item.messages, keys.delimiter), keys.delimiter
    return [Branch(context=context, continuation=between + choice) for choice in item.choices]


def judge(keys: Config, items: Sequence[ChoiceItem], said: Said) -> Judged:
    """The share of items whose right choice is the likeliest."""
    gold = np.array([item.gold for item in items])
    picked, normed = (np.array([row[name] for row in said.rows]) for name in ("picked", "picked_norm"))
    values = {"acc": (picked == gold).astype(np.float64), "acc_norm": (normed == gold).astype(np.float64)}
    metrics = {name: float(right.mean()) for name, right in values.items()}
    if not isinstance(keys.choices, str):
        metrics["f1_macro"] = f1(picked, gold)
    if keys.metric == "f1_macro":
        values["f1_macro"] = of_lists(picked, gold, f1)
    return Judged(metric=keys.metric, metrics=metrics, values=values[keys.metric])
