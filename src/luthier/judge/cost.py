# SPDX-License-Identifier: Apache-2.0
"""What judging will cost before it starts: tokens by a rule of thumb, money by the prices that the user gave."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.judge.cache import Request

REPLY = 250  # tokens of a usual reply: GPT-4's 320 judgments of two MT-bench models have 836 letters on average
_LETTERS = 4.0  # letters of a token in English
_MESSAGE = 4  # tokens of a message's frame


def tokens(text: str) -> int:
    """About how many tokens a text has: a token for four letters, and one for each character of Chinese or Japanese.

    Example:
        >>> tokens("Rate the answer."), tokens("请给出得分")
        (4, 5)
    """
    wide = sum(ord(letter) > 0x2E7F for letter in text)
    return math.ceil((len(text) - wide) / _LETTERS) + wide


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Money for a million tokens, in whichever currency; None where it was not said."""

    tokens_in: float | None = None
    tokens_out: float | None = None

    def of(self, tokens_in: float, tokens_out: float) -> float | None:
        """Money for so many tokens; None where a price is unknown."""
        if self.tokens_in is None or self.tokens_out is None:
            return None
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of the requests that will be sent.

    Attributes:
        requests: How many.
        kept: Requests whose reply is there already: they cost nothing.
        tokens_in: About how many tokens they have.
        tokens_out: About how many tokens come back.
        most_out: How many can come back at most.
    """

    requests: int
    kept: int
    tokens_in: int
    tokens_out: int
    most_out: int

    def said(self, prices: Prices) -> str:
        """In words."""
        about = f"about {self.tokens_in:,} tokens in, {self.tokens_out:,} out (at most {self.most_out:,})"
        money, most = prices.of(self.tokens_in, self.tokens_out), prices.of(self.tokens_in, self.most_out)
        cost = f": about {money:.2f}, at most {most:.2f}" if money is not None else "; no prices given"
        kept = f"; {self.kept:,} replies are there already" if self.kept else ""
        return f"{self.requests:,} requests, {about}{cost}{kept}"


def estimate(requests: Sequence[Request], kept: int) -> Estimate:
    """Count what is about to be sent."""
    most = [int(one.parameters.get("max_tokens", REPLY)) for one in requests]
    return Estimate(
        requests=len(requests),
        kept=kept,
        tokens_in=sum(tokens(turn["content"]) + _MESSAGE for one in requests for turn in one.messages),
        tokens_out=sum(min(REPLY, limit) for limit in most),
        most_out=sum(most),
    )
