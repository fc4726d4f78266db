# SPDX-License-Identifier: Apache-2.0
"""Perplexity of texts, by token, word and byte; of conversations and completions, that of their answers.

With the log-probability L of all that is scored, its T tokens, W words and B bytes,

    perplexity       exp(-L / T)       word_perplexity  exp(-L / W)
    byte_perplexity  exp(-L / B)       bits_per_byte    -L / (B ln 2)

Only the last three compare models with different tokenizers. `token_probability`, `word_probability` and
`byte_probability` are 1 / perplexity: the geometric mean of probabilities, which rises as models get better, so that
studies take them. An item is a row; with `join`, rows are lines of one text and an item is a window of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from luthier.core.errors import DataError
from luthier.core.types import Text
from luthier.evaluate.items import Item, Said
from luthier.evaluate.judged import Judged
from luthier.evaluate.rows import Items, OneSource
from luthier.evaluate.shares import of_counts
from luthier.evaluate.windows import WindowKeys, lay_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from luthier.core.tasks import RowKind
    from luthier.core.types import Example
    from luthier.evaluate.prompts import Setting
    from luthier.evaluate.suite import Suite

Unit = Literal["token", "word", "byte"]
# Metric -> what its log-probability is divided by, and what becomes of the quotient.
_METRICS: dict[str, tuple[Unit, Callable[[float], float]]] = {
    "perplexity": ("token", lambda mean: math.exp(-mean)),
    "word_perplexity": ("word", lambda mean: math.exp(-mean)),
    "byte_perplexity": ("byte", lambda mean: math.exp(-mean)),
    "bits_per_byte": ("byte", lambda mean: -mean / math.log(2.0)),
    "token_probability": ("token", math.exp),
    "word_probability": ("word", math.exp),
    "byte_probability": ("byte", math.exp),
}


class Config(WindowKeys):
    """Keys of the kind."""

    data: OneSource
    """A file as in `data.eval`: texts, conversations or completions, in any format that sft trains on."""
    join: bool = False
    """Rows are lines of one text, such as a book in a .txt file."""
    metric: Literal[
        "perplexity",
        "word_perplexity",
        "byte_perplexity",
        "bits_per_byte",
        "token_probability",
        "word_probability",
        "byte_probability",
    ] = "perplexity"
    """What is reported first."""


@dataclass(frozen=True, kw_only=True)
class TextItem(Item):
    """A row.

    Attributes:
        where: For messages.
        example: A text, a conversation, or a prompt with its completion.
    """

    where: str
    example: Example


def read(keys: Config, where: str, limit: int | None, rows: RowKind | None) -> Items:  # noqa: ARG001 - any model
    """Texts, conversations or completions; with `join`, the windows of a text are not known before its tokens are."""
    from luthier.evaluate.samples import read_samples

    found = read_samples(keys.data, "plain", None if keys.join else limit)
    if not keys.join:
        items = tuple(TextItem(where=one.name, example=one.example) for one in found.every)  # type: ignore[arg-type]
        return Items(every=items, left=found.left, refused=found.refused)
    lines = [one.example.text for one in found.every if isinstance(one.example, Text)]
    if len(lines) < len(found.every):
        raise DataError(f"{where}.join", "rows that are no plain texts", "lines of one text", "leave join out")
    pieces = _pieces("\n".join(lines))
    kept = pieces if limit is None else pieces[:limit]
    every = tuple(
        TextItem(where=f"{keys.data.path}, part {n}", example=Text(text=one)) for n, one in enumerate(kept, 1)
    )
    return Items(every=every, left=len(kept) < len(pieces))


_PIECE = 2000  # characters of a joined text that are one item


def _pieces(text: str) -> list[str]:
    """Cut a text into items at the white space before each 2,000th character."""
    found, start = [], 0
    while start < len(text):
        end = len(text)
        if end - start > _PIECE:
            space = max(text.rfind(sign, start + 1, start + _PIECE) for sign in " \n")
            end = space if space > start else start + _PIECE
        found.append(text[start:end])
        start = end
    return found


def ask(model: Any, tokenizer: Any, suite: Suite, setting: Setting) -> Said:
    """Log-probability, tokens, words and bytes of what is scored in each item."""
    from luthier.evaluate.scored import score_trees

    keys: Config = suite.keys
    items: Sequence[TextItem] = suite.items  # type: ignore[assignment]  # as `read` made them
    laid = lay_texts(model, tokenizer, keys, [(item.where, item.example) for item in items], setting.system)
    found = score_trees(model, [tree for one in laid for tree in one.trees])
    totals = iter(scores[-1].total for scores in found)
    rows = [{"text": one.text[:200], "logprob": sum(next(totals) for _ in one.trees), **one.counts} for one in laid]
    return Said(rows=rows)


def judge(keys: Config, items: Sequence[TextItem], said: Said) -> Judged:  # noqa: ARG001
    """Over all items together: a long one counts for more."""
    names = ("logprob", "token", "word", "byte")
    sums_NK = np.array([[row["logprob"], row["tokens"], row["words"], row["bytes"]] for row in said.rows], np.float64)
    sums = sums_NK.sum(axis=0)
    metrics = {name: turn(float(sums[0] / sums[names.index(unit)])) for name, (unit, turn) in _METRICS.items()}
    unit, turn = _METRICS[keys.metric]
    counts = sums_NK[:, [0, names.index(unit)]]
    return Judged(
        metric=keys.metric, metrics=metrics, values=of_counts(counts, lambda two: turn(float(two[0] / two[1])))
    )
