# SPDX-License-Identifier: Apache-2.0
"""Attention of many sequences that grow at once: each has a slot for its keys and values, a pass brings some tokens.

    tokens of a pass     prompt of A, a chunk | B | C | prompt of D, its end | E      one axis, no padding
    slots of the cache   each as long as a sequence may become; sequences come and go between passes

All sequences that bring one token share one call, over the slots as they lie (without a copy of what is kept) where
most slots are in use; those that bring more (prompts) share one where they bring as many to as many.

Shapes: T tokens of a pass, S slots, C positions of a slot, K key heads, H = K G query heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one sequence brings to a pass.

    Attributes:
        slot: Where its keys and values are kept.
        begin: Its tokens that are there already.
        ids: Its next tokens.
        adapter: Under which adapter it runs; the pieces of a pass stand in the adapters' order.
    """

    slot: int
    begin: int
    ids: Sequence[int]
    adapter: int = 0

    @property
    def end(self) -> int:
        """Its tokens after the pass."""
        return self.begin + len(self.ids)


@dataclass(frozen=True, kw_only=True, eq=False)
class Alike:
    """Pieces that bring the same number of tokens to sequences of the same length.

    Attributes:
        begin: Tokens that each sequence has already.
        end: After the pass.
        tokens: Of each piece, int64 [B, end - begin].
        slots: Where each is kept, int64 [B].
    """

    begin: int
    end: int
    tokens: torch.Tensor
    slots: torch.Tensor


class Layout:
    """Where the tokens of a pass come from and go to.

    Args:
        pieces: At least one.
        device: Of the tensors.

    Attributes:
        pieces: As given.
        input_ids: int64 [T].
        position_ids: int64 [T].
        slots: Slot of each token, int64 [T].
        ends: Last token of each piece, int64.
    """

    def __init__(self, pieces: Sequence[Piece], device: torch.device) -> None:
        self.pieces = pieces
        lengths = [len(piece.ids) for piece in pieces]
        self.starts = [sum(lengths[:place]) for place in range(len(pieces))]
        self._device = device
        self.input_ids = self._tensor([token for piece in pieces for token in piece.ids])
        self.position_ids = self._tensor([place for piece in pieces for place in range(piece.begin, piece.end)])
        self.slots = self._tensor([piece.slot for piece in pieces for _ in piece.ids])
        self.ends = self._tensor([start + length - 1 for start, length in zip(self.starts, lengths, strict=True)])
        self._masks: dict[tuple[int, int, int | None], torch.Tensor] = {}

    def _tensor(self, numbers: list[int]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._device)

    @cached_property
    def single(self) -> torch.Tensor:
        """The tokens that come alone, int64."""
        found = zip(self.starts, self.pieces, strict=True)
        return self._tensor([start for start, piece in found if len(piece.ids) == 1])

    @cached_property
    def longest(self) -> int:
        """Positions that the longest sequence that brings several tokens has; 0 where there is none."""
        return max((piece.end for piece in self.pieces if len(piece.ids) > 1), default=0)

    @cached_property
    def seen(self) -> int:
        """Positions that all tokens see together."""
        return sum((piece.begin + piece.end + 1) * len(piece.ids) // 2 for piece in self.pieces)

    @cached_property
    def single_end(self) -> int:
        """Positions that the longest of their sequences has; 0 where there is none."""
        return max((piece.end for piece in self.pieces if len(piece.ids) == 1), default=0)

    @cached_property
    def single_slots(self) -> int | None:
        """The first so many slots, which a call for all of them runs over; None: over copies of theirs alone."""
        places = [piece.slot for piece in self.pieces if len(piece.ids) == 1]
        span = max(places, default=-1) + 1
        return span if 2 * len(places) >= span else None

    def single_mask(self, window: int | None) -> torch.Tensor:
        """What they see, bool [slots, 1, 1, positions]; slots without one see their first position, for no reason."""
        key = (-1, 0, window)
        if key not in self._masks:
            at = self.position_ids[self.single]
            if self.single_slots is not None:
                every = torch.zeros(self.single_slots, dtype=torch.int64, device=self._device)
                at = every.index_copy(0, self.slots[self.single], at)
            self._masks[key] = _seen(at, self.single_end, window)[:, None, None]
        return self._masks[key]

    @cached_property
    def alike(self) -> list[Alike]:
        """The pieces of several tokens, those that bring as many to as many together."""
        found: dict[tuple[int, int], list[int]] = {}
        for place, piece in enumerate(self.pieces):
            if len(piece.ids) > 1:
                found.setdefault((piece.begin, piece.end), []).append(place)
        return [self._alike(begin, end, places) for (begin, end), places in found.items()]

    def _alike(self, begin: int, end: int, places: list[int]) -> Alike:
        tokens = self._tensor([self.starts[place] for place in places])[:, None]
        slots = [self.pieces[place].slot for place in places]
        tokens = tokens + torch.arange(end - begin, device=self._device)
        return Alike(begin=begin, end=end, tokens=tokens, slots=self._tensor(slots))

    def mask(self, alike: Alike, window: int | None) -> torch.Tensor:
        """What the tokens of such a piece see, bool [tokens, positions]."""
        key = (alike.begin, alike.end, window)
        if key not in self._masks:
            at = torch.arange(alike.begin, alike.end, device=self._device)
            self._masks[key] = _seen(at, alike.end, window)
        return self._masks[key]


def _seen(at: torch.Tensor, end: int, window: int | None) -> torch.Tensor:
    """Bool [tokens, end]: each token sees its past, of a window the last positions of it."""
    distance = at[:, None] - torch.arange(end, device=at.device)[None]
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


@dataclass(frozen=True, eq=False)
class Score:
    """How scores are made: see `kernels.attention.plain_attention`."""

    scaling: float
    softcap: float | None = None
    sinks: torch.Tensor | None = None


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    layout: Layout,
    window: int | None,
    score: Score,
) -> torch.Tensor:
    """Attention of all pieces over their slots.

    Args:
        query: [T, H, D].
        keys: [S, K, C, D], with those of this pass in their places.
        values: Likewise.
        layout: Which token is whose.
        window: A token sees at most this many positions, itself included.
        score: How scores are made.

    Returns:
        [T, H, D], the D of values.
    """
    heads, groups = keys.shape[1], query.shape[1] // keys.shape[1]
    out = query.new_empty(*query.shape[:2], values.shape[-1])
    if end := layout.single_end:
        own, rows = layout.slots[layout.single], layout.single_slots
        asked = query[layout.single].view(-1, heads, groups, query.shape[-1])
        mask = layout.single_mask(window).expand(-1, -1, groups, -1)
        if rows is None:
            found = _softmax(asked, keys[own, :, :end], values[own, :, :end], mask, score)
        else:
            every = query.new_zeros(rows, *asked.shape[1:]).index_copy(0, own, asked)
            found = _softmax(every, keys[:rows, :, :end], values[:rows, :, :end], mask, score)[own]
        out[layout.single] = found.flatten(1, 2)
    for alike in layout.alike:
        # Query heads of a group stand below each other: [B, count, K G, D] -> [B, K, G count, D].
        asked = query[alike.tokens].unflatten(2, (heads, groups)).permute(0, 2, 3, 1, 4).flatten(2, 3)
        mask = layout.mask(alike, window).repeat(groups, 1)[None, None]
        kept = [one[alike.slots, :, : alike.end] for one in (keys, values)]
        found = _softmax(asked, kept[0], kept[1], mask, score)
        out[alike.tokens] = found.unflatten(2, (groups, -1)).permute(0, 3, 1, 2, 4).flatten(2, 3)
    return out


def _softmax(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, score: Score
) -> torch.Tensor:
    """Query rows [B, K, R, D] on keys [B, K, M, D]; R are the groups, each with its tokens."""
    if score.softcap is None and score.sinks is None:
        return F.scaled_dot_product_attention(query, keys, values, mask, scale=score.scaling)
    scores = (query @ keys.transpose(2, 3)) * score.scaling
    if score.softcap is not None:
        scores = score.softcap * torch.tanh(scores / score.softcap)
    scores = scores.masked_fill(~mask, float("-inf"))
    if score.sinks is not None:
        groups = score.sinks.numel() // keys.shape[1]
        sinks = score.sinks.to(scores).view(1, keys.shape[1], groups).repeat_interleave(scores.shape[2] // groups, 2)
        scores = torch.cat([scores, sinks[..., None].expand(scores.shape[0], -1, -1, 1)], -1)
    wide = scores.dtype if scores.dtype == torch.float64 else torch.float32
    weights = torch.softmax(scores, -1, dtype=wide).to(query.dtype)[..., : keys.shape[2]]
    return weights @ values
