# SPDX-License-Identifier: Apache-2.0
"""What an engine has done, and its text for Prometheus. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

from luthier.serve.asked import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

# Upper bounds in seconds of the histogram of first tokens.
BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass
class Counts:
    """Since the start.

    Attributes:
        passes: Forward passes.
        prompt_tokens: Tokens of prompts that were read.
        reply_tokens: Tokens that were written.
        refused: Requests that found the queue full.
        ended: Replies by why they ended.
        seconds: That ended replies took, waiting included.
        first: First tokens that came within each bound, and all of them at the end.
        first_seconds: That all first tokens took.
    """

    passes: int = 0
    prompt_tokens: int = 0
    reply_tokens: int = 0
    refused: int = 0
    ended: dict[str, int] = field(default_factory=lambda: dict.fromkeys(get_args(Reason), 0))
    seconds: float = 0.0
    first: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    first_seconds: float = 0.0

    def first_token(self, seconds: float) -> None:
        """A reply has begun, so long after it was asked for."""
        self.first_seconds += seconds
        for place, bound in enumerate((*BOUNDS, float("inf"))):
            self.first[place] += seconds <= bound


def exposition(engines: Iterable[tuple[str, Counts, tuple[int, int], int]]) -> str:
    """Prometheus' text format.

    Args:
        engines: Of each base its name, its counts, (replies being written, replies that wait), bytes of its slots.
    """
    every = list(engines)
    lines: list[str] = []

    def add(name: str, kind: str, text: str, rows: Iterable[tuple[str, float]]) -> None:
        lines.extend((f"# HELP luthier_{name} {text}", f"# TYPE luthier_{name} {kind}"))
        lines.extend(f"luthier_{series} {value}" for series, value in rows)

    def each(name: str, value: str) -> list[tuple[str, float]]:
        return [(f'{name}{{base="{_quoted(base)}"}}', getattr(counts, value)) for base, counts, _, _ in every]

    add("passes_total", "counter", "Forward passes.", each("passes_total", "passes"))
    add("prompt_tokens_total", "counter", "Tokens of prompts read.", each("prompt_tokens_total", "prompt_tokens"))
    add("reply_tokens_total", "counter", "Tokens written.", each("reply_tokens_total", "reply_tokens"))
    add("refused_total", "counter", "Requests that found the queue full.", each("refused_total", "refused"))
    ended = [
        (f'replies_total{{base="{_quoted(base)}",reason="{reason}"}}', number)
        for base, counts, _, _ in every
        for reason, number in counts.ended.items()
    ]
    add("replies_total", "counter", "Replies by why they ended.", ended)
    add("reply_seconds_total", "counter", "Seconds that replies took.", each("reply_seconds_total", "seconds"))
    for place, name in enumerate(("running", "waiting")):
        rows = [(f'{name}{{base="{_quoted(base)}"}}', load[place]) for base, _, load, _ in every]
        add(name, "gauge", f"Replies that are {name} now.", rows)
    slots = [(f'slot_bytes{{base="{_quoted(base)}"}}', size) for base, _, _, size in every]
    add("slot_bytes", "gauge", "Memory of all slots when they are full.", slots)
    add("first_token_seconds", "histogram", "From the request to the first token.", _histogram(every))
    return "\n".join(lines) + "\n"


def _histogram(every: list[tuple[str, Counts, tuple[int, int], int]]) -> list[tuple[str, float]]:
    rows: list[tuple[str, float]] = []
    for base, counts, _, _ in every:
        label = f'base="{_quoted(base)}"'
        for bound, number in zip((*map(str, BOUNDS), "+Inf"), counts.first, strict=True):
            rows.append((f'first_token_seconds_bucket{{{label},le="{bound}"}}', number))
        rows.append((f"first_token_seconds_sum{{{label}}}", counts.first_seconds))
        rows.append((f"first_token_seconds_count{{{label}}}", counts.first[-1]))
    return rows


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
