# SPDX-License-Identifier: Apache-2.0
"""Endings that must be foreseen word for word, such as the last word of a passage (LAMBADA).

acc         every token of the continuation is the model's first choice
perplexity  exp of the mean, over items, of minus the continuation's log-probability
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from luthier.evaluate.continuations import Branch, plant_branches
from luthier.evaluate.items import Item, Said
from luthier.evaluate.judged import Judged
from luthier.evaluate.rows import Items, RowKeys, fill, marks, read_rows
from luthier.evaluate.shares import of_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.core.tasks import RowKind
    from luthier.evaluate.prompts import Setting
    from luthier.evaluate.suite import Suite


class Config(RowKeys):
    """Keys of the kind."""

    context: str = "{context}"
    """What stands before the continuation, with columns in braces."""
    continuation: str = "{continuation}"
    """What must follow, likewise."""
    delimiter: str = " "
    """Between the two."""
    metric: Literal["acc", "perplexity", "token_probability"] = "acc"
    """What is reported first; `token_probability`, 1 / perplexity, is what studies have in the place of perplexity."""


@dataclass(frozen=True, kw_only=True)
class ClozeItem(Item):
    """A context and what follows it.

    Attributes:
        where: The row, for messages.
        branch: Both.
    """

    where: str
    branch: Branch


def read(keys: Config, where: str, limit: int | None, rows: RowKind | None) -> Items:  # noqa: ARG001 - any model
    """Contexts and continuations."""
    found, left = read_rows(keys, where, limit)
    items = []
    for place, row in found:
        context, then = fill(keys.context, row, place), keys.delimiter + fill(keys.continuation, row, place)
        branch = Branch(context=context, continuation=then)
        items.append(ClozeItem(where=place, branch=branch, **marks(keys, row, place)))
    return Items(every=tuple(items), left=left)


def ask(model: Any, tokenizer: Any, suite: Suite, setting: Setting) -> Said:  # noqa: ARG001 - nothing of the call
    """Log-probability of each continuation, and whether it is what the model would write."""
    from luthier.evaluate.scored import longest_branch, need_causal, score_trees

    need_causal(model)
    items: Sequence[ClozeItem] = suite.items  # type: ignore[assignment]  # as `read` made them
    limit = longest_branch(model)
    planted = [plant_branches(tokenizer, [item.branch], item.where, limit=limit) for item in items]
    found = score_trees(model, [one.tree for one in planted], likeliest=True)
    rows = []
    for item, scores in zip(items, found, strict=True):
        said = {"continuation": item.branch.continuation, "logprob": scores[-1].total}
        rows.append({**said, "tokens": len(scores[-1].logprobs), "likeliest": scores[-1].likeliest})
    cut = sum(one.cut > 0 for one in planted)
    return Said(rows=rows, notes={"cut": cut} if cut else {})


def judge(keys: Config, items: Sequence[ClozeItem], said: Said) -> Judged:  # noqa: ARG001
    """The share of continuations that the model would write, and how likely it finds them."""
    right = np.array([row["likeliest"] for row in said.rows], np.float64)
    logprobs = np.array([row["logprob"] for row in said.rows], np.float64)
    perplexity = float(np.exp(-logprobs.mean()))
    metrics = {"acc": float(right.mean()), "perplexity": perplexity, "token_probability": 1.0 / perplexity}
    if keys.metric == "acc":
        return Judged(metric="acc", metrics=metrics, values=right)
    sign = -1.0 if keys.metric == "perplexity" else 1.0
    counts = np.stack([logprobs, np.ones(len(logprobs))], axis=1)
    values = of_counts(counts, lambda sums: float(np.exp(sign * sums[0] / sums[1])))
    return Judged(metric=keys.metric, metrics=metrics, values=values)
