# SPDX-License-Identifier: Apache-2.0
"""Rows that a quantised export is calibrated on: the run's training rows, others than those that prove it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.errors import LuthierError
from luthier.export.held_out import MOST_ROWS, TEXTS, check_rows, first_branch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedTokenizerBase

    from luthier.export.origin import Origin


def calibration_rows(
    origin: Origin,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: int,
    count: int,
    length: int,
    texts: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> tuple[list[list[int]], str]:
    """Choose token rows and say where they come from.

    Args:
        origin: What is exported; its run's `data.train` is used where it can still be read.
        tokenizer: Its tokenizer.
        vocabulary: Words of the base.
        count: Rows at most.
        length: Tokens of a row at most.
        texts: Use these instead.
        say: Receives one line at a time.

    Raises:
        UserError: The given texts hold no tokens, or the tokenizer does not fit the base.
    """
    rows, label = ([], "") if texts else _rows_of_run(origin, tokenizer, count, length, say)
    if not rows:
        label = "given texts" if texts else "built-in texts"
        if not texts:
            say("there are no training rows to calibrate on: eight built-in texts are used (give your own: texts=FILE)")
        chosen: Any = tokenizer(list(texts or TEXTS), truncation=True, max_length=length)["input_ids"]
        rows = [list(ids) for ids in chosen if len(ids) > 1][:count]
    check_rows(rows, tokenizer, texts, vocabulary, origin)
    return rows, label


def _rows_of_run(
    origin: Origin, tokenizer: PreTrainedTokenizerBase, count: int, length: int, say: Callable[[str], None]
) -> tuple[list[list[int]], str]:
    from luthier.data import prepare

    if origin.recipe is None:
        return [], ""
    try:
        rows = prepare(origin.recipe.data, tokenizer, which="train", say=say).rows
    except LuthierError as error:
        say(f"the run's rows cannot be read ({error})")
        return [], ""
    # Without data.eval, every step-th training row proves the export: these are left out here where others are enough.
    step = max(1, len(rows) // MOST_ROWS)
    free = [n for n in range(len(rows)) if origin.recipe.data.eval or step == 1 or n % step]
    chosen = free[:: max(1, len(free) // count)][:count]
    branches = [first_branch(rows.tree(number), length) for number in chosen]
    return [branch for branch in branches if len(branch) > 1], "data.train of the run"
