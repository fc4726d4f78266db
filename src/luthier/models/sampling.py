# SPDX-License-Identifier: Apache-2.0
"""Tokens drawn from logits, each row by a generator of its own: a reply does not depend on who shares its batch.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from transformers import LogitsProcessor

if TYPE_CHECKING:
    from collections.abc import Sequence


class Draw(LogitsProcessor):
    """Turn logits so that their largest is a sample; one generator a row."""

    def __init__(self, temperature: float, top_p: float, generators: list[torch.Generator]):
        self.temperature, self.top_p, self.generators = temperature, top_p, generators

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - the interface
        """[B, V] to [B, V]."""
        scores = scores.float() / self.temperature
        if self.top_p < 1.0:
            scores = nucleus(scores, self.top_p)
        return noised(scores, self.generators)


def noised(scores: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Scores whose largest is a sample of their softmax (Gumbel-max), [B, V]; each row by its own generator."""
    size, device = scores.shape[1], scores.device
    uniform = torch.stack([torch.rand(size, generator=one, device=device) for one in generators])
    return scores - torch.log(-torch.log(uniform))


def nucleus(scores: torch.Tensor, top_p: float | torch.Tensor) -> torch.Tensor:
    """Put all but the likeliest tokens that have `top_p` together at -inf; the likeliest one always stays.

    Args:
        scores: Logits [B, V].
        top_p: Between 0 and 1; one for all rows, or [B, 1].
    """
    ordered, places = scores.sort(-1, descending=True)
    before = torch.softmax(ordered, -1).cumsum(-1) - torch.softmax(ordered, -1)
    return scores.masked_fill((before >= top_p).scatter(1, places, before >= top_p), float("-inf"))


def generator(seed: int, number: int, device: torch.device) -> torch.Generator:
    """The random numbers of one prompt, by its number."""
    digest = hashlib.sha256(f"{seed} {number}".encode()).digest()  # a generator on a CPU uses 32 bits of its seed
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:4], "little"))
