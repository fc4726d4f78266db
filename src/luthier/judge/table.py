# SPDX-License-Identifier: Apache-2.0
"""The tables of FastChat's show_result: first turn, second turn and average of each model; win rates of pairs.

The average is the mean over all rows of a model, not the mean of its two turns; rows without a rating are dropped, and
a row that stands twice counts twice. A pair is won by who wins in both orders; anything else is a tie.

Reference:
    lm-sys/FastChat, fastchat/llm_judge/show_result.py.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from luthier.judge.judgments import Compared, Rated

TURNS = (1, 2)


def single_table(rows: Iterable[Rated]) -> dict[str, dict[str, float | None]]:
    """Model -> `turn_1`, `turn_2` and `average`, the best average first; None where a model has no such row."""
    by_model: dict[str, list[Rated]] = defaultdict(list)
    for row in rows:
        if row.counts:
            by_model[row.model].append(row)
    table = {}
    for model, own in by_model.items():
        turns = {f"turn_{turn}": _mean([row.score for row in own if row.turn == turn]) for turn in TURNS}
        table[model] = {**turns, "average": _mean([row.score for row in own])}
    return dict(sorted(table.items(), key=lambda one: -(one[1]["average"] or 0.0)))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def pair_table(rows: Iterable[Compared], baseline: str | None = None) -> dict[str, dict[str, float]]:
    """Model -> `win`, `loss`, `tie`, and their rates, the best adjusted win rate first.

    Args:
        rows: Judgments of pairs.
        baseline: Count only pairs with this model, and leave it out of the table.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row.counts and (baseline is None or baseline in row.models):
            for model in row.models:
                counts[model][outcome(row, model)] += 1
    table = {}
    for model, own in counts.items():
        if model == baseline:
            continue
        total = own.total()
        rates = {"win_rate": own["win"] / total, "loss_rate": own["loss"] / total}
        adjusted = (own["win"] + 0.5 * own["tie"]) / total
        table[model] = {**{name: own[name] for name in ("win", "loss", "tie")}, **rates, "win_rate_adjusted": adjusted}
    return dict(sorted(table.items(), key=lambda one: -one[1]["win_rate_adjusted"]))


def outcome(row: Compared, model: str) -> str:
    """`win`, `loss` or `tie` of one of a pair's models."""
    if row.winner is None:
        return "tie"
    return "win" if row.winner == model else "loss"
