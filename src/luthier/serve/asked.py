# SPDX-License-Identifier: Apache-2.0
"""What a reply was asked for, and what is told of it while it is written. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

# Why a reply ended: the model or a stop string ended it; it was as long as allowed; nobody waits for it any more; its
# time was over; the server could not go on.
Reason = Literal["stop", "length", "cancelled", "timeout", "error"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One reply that is asked for.

    Attributes:
        ids: Tokens of its prompt.
        max_tokens: Longest reply.
        temperature: 0 takes the likeliest token each time.
        top_p: Draw only from the likeliest tokens that have this probability together.
        seed: Of the draws.
        number: Which of several replies to one prompt; each draws numbers of its own.
        stop: Strings that end the reply; they are no part of it.
        ends: Tokens that end it.
        top_logprobs: How many of the likeliest tokens are told with each token; None: nothing is.
        strip: Whether the blanks around the reply are left out, as `luthier generate` does in a chat.
        seconds: How long it may take from now on, waiting included.
    """

    ids: list[int]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    number: int = 0
    stop: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()
    top_logprobs: int | None = None
    strip: bool = True
    seconds: float = 600.0


@dataclass(frozen=True, kw_only=True)
class Chance:
    """The log-probability of one token of a reply, under the model and before temperature.

    Attributes:
        token: Its id.
        logprob: In nats.
        top: The likeliest tokens there, and their log-probabilities.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class News:
    """More of a reply, or its end.

    Attributes:
        text: What comes next.
        chances: Of the tokens since the last news, where they are asked for.
        reason: Why the reply ended; None while it goes on.
        tokens: Tokens of the reply so far, without the one that ends it.
        message: What went wrong, with `error`.
    """

    text: str = ""
    chances: tuple[Chance, ...] = ()
    reason: Reason | None = None
    tokens: int = 0
    message: str = ""


if TYPE_CHECKING:
    Tell = Callable[[News], None]
