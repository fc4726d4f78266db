# SPDX-License-Identifier: Apache-2.0
"""What a run computes: tokens of its micro-batches, and of all its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from luthier.kernels.forest import plant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.core.types import Tree
    from luthier.engine.rows import Rows
    from luthier.recipe import Recipe

_LOOKED_AT = 16  # steps whose trees are counted; the others are like them


@dataclass(frozen=True, kw_only=True)
class Work:
    """A run in numbers.

    Attributes:
        tokens: Of the largest micro-batch on one device.
        scored: Scored ones, in the micro-batch of those looked at that has most of them.
        mean: Tokens of a micro-batch in the mean.
        micro_batches: Forward and backward passes of a step.
        steps: Optimiser steps.
        all_tokens: Of the whole run.
        all_scored: Likewise.
        all_pairs: Pairs of a token and one that it sees.
        passes: Forward and backward passes.
        eval_tokens: Of the largest pass without gradient; 0 where there is none.
        asked_before: Whether a reference is asked before the first step.
        asked_in_steps: Whether it is asked in each step.
        estimated: Whether tokens are another tokenizer's: the model has none beside its configuration.
    """

    tokens: int
    scored: int
    mean: float
    micro_batches: int
    steps: int
    all_tokens: int
    all_scored: int
    all_pairs: int
    passes: int
    eval_tokens: int = 0
    asked_before: bool = False
    asked_in_steps: bool = False
    estimated: bool = False


def work_of(recipe: Recipe, rows: Rows, reference: str | None = None, *, estimated: bool = False) -> Work:
    """Count.

    Args:
        recipe: Checked.
        rows: As they are laid out; of several ranks this one's share.
        reference: `before` the first step, in each `step`, or None.
        estimated: See :class:`Work`.
    """
    batches, steps = rows.batches, rows.batches.total_steps
    seen = [batches.step(int(step)) for step in np.unique(np.linspace(0, steps - 1, _LOOKED_AT).astype(int))]
    forests = [[plant(trees) for trees in step if trees] for step in seen]
    flat = [forest for step in forests for forest in step]
    factor = steps / max(1, len(forests))
    tokens = [forest.num_tokens for forest in flat] or [0]
    held_out = 0
    if rows.eval_rows is not None and len(rows.eval_rows):
        size = recipe.train.per_device_eval_batch_size
        lengths = np.sort(rows.eval_rows.lengths)[-size:]
        held_out = size * recipe.data.max_length if batches.packing else int(lengths.sum())
        held_out = min(held_out, int(rows.eval_rows.lengths.sum()))
    scored = [forest.num_scored for forest in flat] or [0]
    largest, most = max(tokens), max(scored)
    if len(seen) < steps and batches.largest() > largest:  # some step may have what none of these has
        largest = batches.largest()
        most = round(largest * max(one / max(1, all_) for one, all_ in zip(scored, tokens, strict=True)))
    return Work(
        tokens=largest,
        scored=most,
        mean=float(np.mean(tokens)),
        micro_batches=max((len(step) for step in forests), default=1),
        steps=steps,
        all_tokens=round(factor * sum(tokens)),
        all_scored=round(factor * sum(forest.num_scored for forest in flat)),
        all_pairs=round(factor * sum(forest.num_pairs for forest in flat)),
        passes=round(factor * len(flat)),
        eval_tokens=max(held_out, 1024 if reference == "before" else 0),
        asked_before=reference == "before",
        asked_in_steps=reference == "step",
        estimated=estimated,
    )


def some_batches(rows: Rows, count: int) -> Sequence[Sequence[Tree]]:
    """So many micro-batches as the run has them, of different sizes where it has such."""
    steps = min(count, rows.batches.total_steps)
    return [trees for step in range(steps) for trees in rows.batches.step(step)[:1] if trees]
