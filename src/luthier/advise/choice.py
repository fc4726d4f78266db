# SPDX-License-Identifier: Apache-2.0
"""Which method, rank and micro-batch: what the rows ask for, or the nearest to it that fits into the memory.

In this order: full fine-tuning where there are very many rows; LoRA in 16 or 32 bits at the rank that the rows ask for,
with the largest micro-batch that fits; one bin at a time, then with gradient checkpointing; lower ranks; a base in NF4.
What stands later is chosen only where all before it does not fit, and then with one bin at a time: so more memory never
gives a smaller micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.advise.fit import Ask, Fit, fits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from luthier.advise.facts import DataFacts, Facts

# Rows, or millions of tokens of plain text, below which a rank is enough.
RANKS = ((1_000, 8), (10_000, 16), (100_000, 64), (None, 256))
TEXT_RANKS = ((1.0, 16), (10.0, 64), (None, 256))
JUDGED_RANKS = ((10_000, 16), (None, 64))
USUAL_RANK, LEAST_RANK = 16, 8
MANY_ROWS, MANY_MILLIONS = 100_000, 10.0  # from here on full fine-tuning is worth its memory


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How to train.

    Attributes:
        ask: The method with rank, micro-batch and so on.
        fit: What it needs; `fit.ok` is false where nothing fits.
        wished: The rank that the rows ask for.
    """

    ask: Ask
    fit: Fit
    wished: int

    @property
    def lowered(self) -> bool:
        """Whether memory made the rank smaller."""
        return 0 < self.ask.r < self.wished


def choose(facts: Facts, max_length: int, step: int) -> Choice:
    """Choose.

    Args:
        facts: Model, rows, machine.
        max_length: Tokens of a bin.
        step: Bins, or judged examples, of an optimiser step, a power of two.
    """
    wished = wished_rank(facts)
    least: Choice | None = None
    for ask in _ways(facts, max_length, step, wished):
        least = Choice(ask=ask, fit=fits(facts, ask), wished=wished)
        if least.fit.ok:
            return least
    assert least is not None
    return least


def _ways(facts: Facts, max_length: int, step: int, wished: int) -> Iterator[Ask]:
    """Every way to train, the best one first."""
    if facts.method not in (None, "lora"):
        yield from _batches(Ask(method=str(facts.method), max_length=max_length), step)
        return
    if facts.method is None and wants_full(facts.data):
        for checkpointing in (False, True):
            yield Ask(method="full", max_length=max_length, batch=step, checkpointing=checkpointing)
    ranks = [r for r in (256, 128, 64, 32, 16, 8, 4, 2, 1) if r <= wished and (r >= LEAST_RANK or r == wished)]
    for quantization in ("none", *(name for name in ("nf4",) if name in facts.machine.quantizations)):
        for r in ranks:
            most = step if r == wished and quantization == "none" else 1
            yield from _batches(Ask(method="lora", r=r, max_length=max_length, quantization=quantization), most)


def _batches(ask: Ask, most: int) -> Iterator[Ask]:
    """The same with micro-batches of `most` down to one, and that one with checkpointing."""
    keys = {"method": ask.method, "r": ask.r, "max_length": ask.max_length, "quantization": ask.quantization}
    while most:
        yield Ask(**keys, batch=most)  # type: ignore[arg-type]
        most //= 2
    yield Ask(**keys, batch=1, checkpointing=True)  # type: ignore[arg-type]


def wants_full(data: DataFacts | None) -> bool:
    """Whether there is so much to learn that a low-rank update would hold it back."""
    if data is None or data.judged:
        return False
    return millions(data) >= MANY_MILLIONS if data.text else data.rows >= MANY_ROWS


def asked_rank(data: DataFacts | None) -> int:
    """The rank that the rows ask for."""
    if data is None:
        return USUAL_RANK
    if data.text:
        return _below(TEXT_RANKS, millions(data))
    return _below(JUDGED_RANKS if data.judged else RANKS, data.rows)


def wished_rank(facts: Facts) -> int:
    """The same, no larger than the model's smallest linear."""
    found = asked_rank(facts.data)
    while found > facts.model.smallest:
        found //= 2
    return max(1, found)


def millions(data: DataFacts) -> float:
    """Millions of tokens in all rows."""
    return data.rows * data.mean / 1e6


def _below(table: tuple[tuple[float | None, int], ...], amount: float) -> int:
    return next(value for limit, value in table if limit is None or amount < limit)
