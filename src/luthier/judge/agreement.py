# SPDX-License-Identifier: Apache-2.0
"""How far two judges agree: Cohen's kappa, correlation of ranks, and how far apart their scores are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from luthier.metrics.kappa import kappa
from luthier.metrics.spearman import spearman

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.judge.judgments import Compared, Rated


def of_ratings(first: Sequence[Rated], second: Sequence[Rated]) -> dict[str, float | int | None]:
    """Agreement on the answers that both judges rated.

    Returns:
        `answers`, `same` (share of equal ratings), `kappa`, `kappa_quadratic`, `spearman`, and `difference`, the mean
        of the first judge's rating minus the second's. None where the data tell none.
    """
    one, two = (
        {(row.question, row.model, row.turn): row.score for row in rows if row.counts} for rows in (first, second)
    )
    shared = [key for key in one if key in two]
    a, b = [one[key] for key in shared], [two[key] for key in shared]
    return {
        "answers": len(shared),
        "same": _share(a, b),
        "kappa": _known(kappa(a, b)),
        "kappa_quadratic": _known(kappa(a, b, weights="quadratic")),
        "spearman": _known(spearman(a, b)),
        "difference": sum(x - y for x, y in zip(a, b, strict=True)) / len(a) if a else None,
    }


def of_verdicts(first: Sequence[Compared], second: Sequence[Compared]) -> dict[str, float | int | None]:
    """Agreement on the pairs that both judges compared: `pairs`, `same` and `kappa` of who won, or of a tie."""
    one, two = (dict(_outcome(row) for row in rows if row.counts) for rows in (first, second))
    shared = [key for key in one if key in two]
    a, b = [one[key] for key in shared], [two[key] for key in shared]
    return {"pairs": len(shared), "same": _share(a, b), "kappa": _known(kappa(a, b))}


def _outcome(row: Compared) -> tuple[tuple[object, ...], str]:
    """Who won, by the question, the two models in whichever order, and the turn."""
    return (row.question, *sorted(row.models), row.turn), row.winner or ""


def _share(a: Sequence[object], b: Sequence[object]) -> float | None:
    return sum(x == y for x, y in zip(a, b, strict=True)) / len(a) if a else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
