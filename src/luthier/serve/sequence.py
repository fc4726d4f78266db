# SPDX-License-Identifier: Apache-2.0
"""One reply on its way: what was asked, its tokens so far, and its place in the engine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from luthier.serve.writer import Writer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from luthier.serve.asked import Asked, Chance, Tell


class Sequence:
    """One reply on its way.

    Args:
        asked: What was asked for.
        adapter: Which member writes it.
        tokenizer: The member's.
        tell: Receives news of it, from the engine's thread.

    Attributes:
        ids: Tokens of the prompt, and those written so far.
        done: How many of them are in the slot.
        slot: Its place; None while it waits.
        cancelled: Set from outside: nobody wants it any more.
    """

    def __init__(self, asked: Asked, adapter: int, tokenizer: PreTrainedTokenizerBase, tell: Tell) -> None:
        self.asked, self.adapter, self.tell = asked, adapter, tell
        self.ids, self.done = list(asked.ids), 0
        self.slot: int | None = None
        self.cancelled = False
        self.writer = Writer(tokenizer, asked.stop, asked.strip)
        self.chances: list[Chance] = []  # not told yet
        self.begun = time.monotonic()
        self.until = self.begun + asked.seconds
        self.draws: torch.Generator | None = None

    @property
    def written(self) -> int:
        """Tokens of the reply so far."""
        return len(self.ids) - len(self.asked.ids)
