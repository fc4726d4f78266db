# SPDX-License-Identifier: Apache-2.0
"""Keep transformers from drawing bars, and from reporting an exchanged head, while it reads or writes weights."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def without_bars() -> Iterator[None]:
    """Inside, transformers draws no bar; weights on a disk are read in seconds, and the bars stand between our lines.

    Downloads keep theirs, which are huggingface_hub's: they take minutes. transformers' own switch,
    `disable_progress_bar`, would turn those off too.
    """
    from transformers.utils import logging as theirs

    def empty(_: Callable[..., Any], args: tuple[Any, ...], words: dict[str, Any]) -> Any:
        return theirs.EmptyTqdm(*args, **words)

    before = theirs.set_tqdm_hook(empty)
    try:
        yield
    finally:
        theirs.set_tqdm_hook(before)


@contextmanager
def without_report(head_is_exchanged: bool) -> Iterator[None]:
    """Inside, transformers does not report weights that are left out or missing; shapes that do not fit it still does.

    Args:
        head_is_exchanged: Otherwise it reports everything. A head of values in the place of one of words is told in our
            own line; any other missing weight is an error of ours that names it.
    """

    def passes(record: logging.LogRecord) -> bool:
        told = record.getMessage()
        return "LOAD REPORT" not in told or any(word in told for word in ("MISMATCH", "CONVERSION"))

    logger = logging.getLogger("transformers.modeling_utils")
    if head_is_exchanged:
        logger.addFilter(passes)
    try:
        yield
    finally:
        logger.removeFilter(passes)
