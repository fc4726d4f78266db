# SPDX-License-Identifier: Apache-2.0
"""Texts, and pairs of texts, -> tokens as the tokenizer's own template lays them out, with the characters they cover.

    [CLS] who wrote it ? [SEP] it was written by Ada . [SEP]        sides -1 0 0 0 0 -1 1 1 1 1 1 1 -1

Where a tokenizer puts nothing between two texts (most decoders'), a line break stands between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.data.faults import RowFault

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from luthier.data.vocabulary import Vocabulary

BREAK = "\n"


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One text, or two, as L tokens.

    Attributes:
        encoding: What the Rust tokenizer gave.
        joined: Characters before the second text, where the two were encoded as one; else None.
    """

    encoding: Any
    joined: int | None = None

    @cached_property
    def ids(self) -> npt.NDArray[np.int32]:
        """Token ids, int32 of shape [L]."""
        return np.array(self.encoding.ids, np.int32)

    @cached_property
    def types(self) -> npt.NDArray[np.int8]:
        """Which text each token belongs to as models are told it, int8 of shape [L]."""
        return np.array(self.encoding.type_ids, np.int8)

    @cached_property
    def _spans(self) -> npt.NDArray[np.int64]:
        return np.array(self.encoding.offsets, np.int64).reshape(-1, 2)

    @cached_property
    def sides(self) -> npt.NDArray[np.int8]:
        """0 or 1, the text that each token is of; -1 for a special token of the template; int8 of shape [L]."""
        if self.joined is None:
            return np.array([-1 if side is None else side for side in self.encoding.sequence_ids], np.int8)
        special = np.array(self.encoding.special_tokens_mask, bool)
        return np.where(special, -1, self._spans[:, 0] >= self.joined).astype(np.int8)

    def characters(self, side: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """First character and end of each token of one text, in that text."""
        begins, ends = self._spans[self.sides == side].T - (self.joined or 0) * side
        return begins, ends


def encode_texts(
    vocabulary: Vocabulary, firsts: Sequence[str], seconds: Sequence[str | None] | None = None
) -> list[Encoded | RowFault]:
    """Tokenise texts, or pairs of them, all at once, with the special tokens of the tokenizer's template.

    Args:
        vocabulary: The tokenizer.
        firsts: The first text of each.
        seconds: The second of each, None for those that have none; None: none has one.
    """
    found: list[Encoded | RowFault] = []
    inputs: list[Any] = []
    joined: list[int | None] = []
    for first, second in zip(firsts, seconds or [None] * len(firsts), strict=True):
        apart = second is None or vocabulary.separates
        joined.append(None if apart else len(first) + len(BREAK))
        inputs.append(first if second is None else (first, second) if apart else f"{first}{BREAK}{second}")
    for encoding, before in zip(_batch(vocabulary.backend, inputs), joined, strict=True):
        found.append(encoding if isinstance(encoding, RowFault) else Encoded(encoding=encoding, joined=before))
    return found


def _batch(backend: Any, inputs: list[Any]) -> list[Any]:
    try:
        found: list[Any] = backend.encode_batch(inputs, add_special_tokens=True)
    except (TypeError, UnicodeEncodeError):  # a lone surrogate, as in the JSON escape \ud83d without its other half
        if len(inputs) == 1:
            return [RowFault("text that is not Unicode (half of a surrogate pair)")]
        return [_batch(backend, [item])[0] for item in inputs]
    return found


def shortened(item: Encoded, most: int) -> npt.NDArray[np.int64]:
    """Places of the tokens that stay where at most so many may: special tokens all, of the longer text the fewer.

    The end of a text is cut away. Of two texts the longer loses tokens until both are equally long, then each loses
    half: the same as the strategy ``longest_first`` of the tokenizers library.

    Args:
        item: L tokens.
        most: How many may stay.

    Returns:
        int64; of shape [L] where nothing is cut, empty where the special tokens alone are too many.
    """
    if len(item.encoding.ids) <= most:
        return np.arange(len(item.encoding.ids))
    sides = item.sides
    counts = [int(np.count_nonzero(sides == side)) for side in (0, 1)]
    room = most - (len(sides) - sum(counts))
    if room <= 0:
        return np.zeros(0, np.int64)
    short = 1 if counts[0] > counts[1] else 0
    kept = [0, 0]
    kept[short] = min(counts[short], room // 2) if counts[1] else min(counts[short], room)
    kept[1 - short] = min(counts[1 - short], room - kept[short])
    stays = sides < 0
    for side in (0, 1):
        stays[np.flatnonzero(sides == side)[: kept[side]]] = True
    return np.flatnonzero(stays)
