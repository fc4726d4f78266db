# SPDX-License-Identifier: Apache-2.0
"""`data.max_length`: the rows whole, without room for what is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.advise.value import Advice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.advise.facts import DataFacts, Facts
    from luthier.advise.value import Sure

USUAL, LEAST, MOST = 1024, 64, 8192


def advise(facts: Facts, _: Mapping[str, Any]) -> tuple[Advice, ...]:
    """Take the power of two that holds the longest row, or nearly all where a few are far longer."""
    limit = facts.model.positions
    if facts.data is None:
        value = USUAL if limit is None else min(USUAL, limit)
        reason = f"no rows were named; {USUAL:,} holds most instructions and BELLE and Zephyr trained with it"
        sources: tuple[str, ...] = ("belle", "handbook")
        return (Advice(key="data.max_length", value=value, reason=reason, sources=sources, sure="low"),)
    data = facts.data
    value = _power(min(data.longest, 2 * _power(data.p99)))
    if not data.judged:
        value = max(value, _power(round(2 * data.mean)))  # two rows a bin at least, or packing finds no partners
    value = min(value, MOST)
    why = [f"rows have {data.median:,} tokens in the middle, {data.p95:,} at 95 %, {data.longest:,} at most"]
    if limit is not None and value > limit:
        value = limit
        why.append(f"the model has {limit:,} positions")
    why.append(_cut(data, value))
    sources = ("rows", "model") if value == limit else ("rows",)
    sure: Sure = "high" if data.sampled >= data.rows or data.longest <= value else "fair"
    return (Advice(key="data.max_length", value=value, reason="; ".join(why), sources=sources, sure=sure),)


def _cut(data: DataFacts, value: int) -> str:
    """What becomes of the longest rows."""
    if data.longest <= value:
        return "none is cut"
    share = "fewer than 1 %" if data.p99 <= value else "fewer than 5 %" if data.p95 <= value else "5 % or more"
    if data.text:
        return f"{share} of the documents are longer, and what is behind is not seen: split them"
    return f"{share} are cut"


def _power(length: int) -> int:
    """The least power of two that is no smaller.

    Example:
        >>> _power(30), _power(64), _power(700)
        (64, 64, 1024)
    """
    value = LEAST
    while value < length:
        value *= 2
    return value
