# SPDX-License-Identifier: Apache-2.0
"""Learning rate by step: a pure function."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luthier.recipe import Optim


def warmup_steps(optim: Optim, total_steps: int) -> int:
    """Steps of warm-up: `warmup_steps`, else `warmup_ratio` of all steps (rounded up); none for `constant`."""
    if optim.lr_scheduler_type == "constant":
        return 0
    return optim.warmup_steps or math.ceil(optim.warmup_ratio * total_steps)


def learning_rate(optim: Optim, step: int, total_steps: int) -> float:
    """The learning rate of an optimiser step (from 0)."""
    share = factor(step, total_steps, warmup_steps(optim, total_steps), optim.lr_scheduler_type)
    return optim.learning_rate * share


def factor(step: int, total_steps: int, warmup: int, kind: str) -> float:
    """Share of the peak learning rate at an optimiser step (from 0), as transformers' schedulers give it.

    Example:
        >>> [round(factor(s, 10, 2, "linear"), 3) for s in (0, 1, 2, 6, 9)]
        [0.0, 0.5, 1.0, 0.5, 0.125]
    """
    if step < warmup:
        return step / max(1, warmup)
    if kind.startswith("constant"):
        return 1.0
    done = (step - warmup) / max(1, total_steps - warmup)
    if kind == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))
    return max(0.0, 1.0 - done)
