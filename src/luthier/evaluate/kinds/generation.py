# SPDX-License-Identifier: Apache-2.0
"""Texts written greedily and compared with right ones: ROUGE-L, BLEU, and SQuAD's F1 and exact match.

For summaries, translations and answers in words; for a model with a head for spans the kind is `task`. Several right
texts of a row all count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from luthier.core.errors import DataError
from luthier.data.faults import kind_of
from luthier.evaluate.items import Item, Said
from luthier.evaluate.judged import Judged
from luthier.evaluate.prompts import ReplyKeys, examples, replies, turns
from luthier.evaluate.rows import Items, fill, marks, read_rows, text_in
from luthier.evaluate.shares import of_counts
from luthier.metrics.bleu import bleu_of, counts
from luthier.metrics.rouge import rouge_l
from luthier.metrics.squad import exact, overlap
from luthier.recipe.schema import Positive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.core.tasks import RowKind
    from luthier.core.types import Message
    from luthier.evaluate.prompts import Setting
    from luthier.evaluate.rows import Row
    from luthier.evaluate.suite import Suite


class Config(ReplyKeys):
    """Keys of the kind."""

    prompt: str = "{prompt}"
    """What is asked, with columns in braces."""
    references: str = "answer"
    """The column with the right text, with a list of them, or with SQuAD's `{text: [...]}`."""
    delimiter: str = "\n"
    """In plain text, what stands between a question and its answer."""
    max_new_tokens: Positive = 128
    """Longest reply."""
    metric: Literal["rouge_l", "bleu", "f1", "exact_match"] = "rouge_l"
    """What is reported first; `f1` and `exact_match` are SQuAD's, without case, articles and punctuation."""


@dataclass(frozen=True, kw_only=True)
class WrittenItem(Item):
    """What is asked, and what may be answered.

    Attributes:
        messages: The question.
        references: Right texts; none where nothing is to be answered (SQuAD 2).
    """

    messages: tuple[Message, ...]
    references: tuple[str, ...]


def read(keys: Config, where: str, limit: int | None, rows: RowKind | None) -> Items:  # noqa: ARG001 - any model
    """Questions and right texts."""
    found, left = read_rows(keys, where, limit)
    shots = examples(keys, where, lambda row: _shot(keys, row))
    items = [
        WrittenItem(
            messages=turns(fill(keys.prompt, row, place), shots),
            references=_references(keys, (place, row)),
            **marks(keys, row, place),
        )
        for place, row in found
    ]
    return Items(every=tuple(items), left=left)


def _shot(keys: Config, row: Row) -> tuple[str, str]:
    return fill(keys.prompt, row[1], row[0]), next(iter(_references(keys, row)), "")


def _references(keys: Config, row: Row) -> tuple[str, ...]:
    where, columns = row
    if keys.references not in columns:
        known = ", ".join(column for column in columns if column != "file")
        raise DataError(where, f"no column {keys.references!r}", f"its columns: {known}", "name it: references: COLUMN")
    value = columns[keys.references]
    if isinstance(value, dict):
        value = value.get("text")
    each = value if isinstance(value, list) else [value]
    if value is None:
        raise DataError(where, f"{keys.references} is {kind_of(value)}", "a text or a list of them", "mend the row")
    if not each and keys.metric == "bleu":
        raise DataError(where, f"{keys.references} is empty", "a right text at least, for BLEU", "take another metric")
    texts = [one.get("text") if isinstance(one, dict) else one for one in each]
    return tuple(text_in(one, keys.references, where) for one in texts)


def ask(model: Any, tokenizer: Any, suite: Suite, setting: Setting) -> Said:
    """What the model writes."""
    keys: Config = suite.keys
    items: Sequence[WrittenItem] = suite.items  # type: ignore[assignment]  # as `read` made them
    written = replies(model, tokenizer, keys, [item.messages for item in items], setting, keys.delimiter)
    rows = []
    for item, reply in zip(items, written, strict=True):
        text, right = reply.text.strip(), item.references
        said = {"prompt": item.messages[-1].content, "reply": text, "references": right, "ended": reply.ended}
        scores = {"rouge_l": rouge_l(text, right), "f1": overlap(text, right), "exact_match": exact(text, right)}
        rows.append(said | scores)
    return Said(rows=rows, notes={"batch_size": setting.batch_size})


def judge(keys: Config, items: Sequence[WrittenItem], said: Said) -> Judged:
    """Means over items, and BLEU of all of them together."""
    means = {name: np.array([row[name] for row in said.rows]) for name in ("rouge_l", "f1", "exact_match")}
    texts, right = [row["reply"] for row in said.rows], [item.references for item in items]
    metrics = {name: float(values.mean()) for name, values in means.items()}
    if not all(right):  # nothing is to be answered somewhere: BLEU has no meaning there
        return Judged(metric=keys.metric, metrics=metrics, values=means[keys.metric])
    sums = np.array(counts(texts, right))
    metrics["bleu"] = bleu_of(sums.sum(axis=0))
    values = of_counts(sums, lambda some: bleu_of(some.tolist())) if keys.metric == "bleu" else means[keys.metric]
    return Judged(metric=keys.metric, metrics=metrics, values=values)
