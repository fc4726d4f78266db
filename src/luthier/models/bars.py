# SPDX-License-Identifier: Apache-2.0
"""Keep transformers from drawing progress bars while it reads or writes weights."""

from __future__ import annotations

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
    from transformers.utils import logging

    def empty(_: Callable[..., Any], args: tuple[Any, ...], words: dict[str, Any]) -> Any:
        return logging.EmptyTqdm(*args, **words)

    before = logging.set_tqdm_hook(empty)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)
