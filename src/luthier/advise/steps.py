# SPDX-License-Identifier: Apache-2.0
"""How long a run is: rows and bins of a step, epochs, and the steps that come of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luthier.advise.facts import Facts

STEP_ROWS = ((1_000, 8), (10_000, 16), (100_000, 32), (None, 64))
FEWEST_STEPS = 50  # fewer would leave the schedule no room: the step is halved until there are as many


def step_size(facts: Facts, max_length: int) -> int:
    """Bins, or judged examples, of an optimiser step, a power of two."""
    data = facts.data
    if data is None:
        return 16
    wanted = float(step_rows(facts))
    if not data.judged:
        wanted *= min(data.mean, max_length) / max_length
    step = 1 << max(0, round(math.log2(max(1.0, wanted))))
    while step > 1 and total_steps(facts, max_length, step) < FEWEST_STEPS:
        step //= 2
    return step


def step_rows(facts: Facts) -> int:
    """Rows of an optimiser step, by how many there are."""
    if facts.data is None:
        return 16
    found = next(value for limit, value in STEP_ROWS if limit is None or facts.data.rows < limit)
    return min(found, 32) if facts.data.judged else found


def total_steps(facts: Facts, max_length: int, step: int) -> int:
    """Optimiser steps of a run, with bins taken as full; 0 where no rows were named."""
    data = facts.data
    if data is None:
        return 0
    bins = data.rows if data.judged else math.ceil(data.rows * min(data.mean, max_length) / max_length)
    return math.ceil(bins / step * epochs(facts))


def epochs(facts: Facts) -> int:
    """Passes over the rows."""
    data = facts.data
    if data is None:
        return 3
    if data.text:
        return 1
    if data.judged:
        return 3 if data.rows < 1_000 else 1
    return 5 if data.rows < 1_000 else 3 if data.rows < 100_000 else 1
