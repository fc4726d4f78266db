# SPDX-License-Identifier: Apache-2.0
"""Score against cost: a mark each variant with its interval, and the front of those that none beats at both."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from luthier.web.charts.svg import Scale, bar, document, frame, line, mark, padded, short, width_of, words
from luthier.web.markup import Markup, tag

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Spot:
    """One variant.

    Attributes:
        name: Stands beside it.
        kind: Its colour and shape.
        cost: What it took; positive.
        score: What it reached.
        low: Lower end of the score's interval.
        high: Upper end; both equal the score where the error is unknown.
    """

    name: str
    kind: str
    cost: float
    score: float
    low: float
    high: float


def front(spots: Sequence[Spot]) -> list[Spot]:
    """Those that no other beats in cost and score at once, from cheap to dear.

    Example:
        >>> make = lambda name, cost, score: Spot(name=name, kind="g0", cost=cost, score=score, low=score, high=score)
        >>> [s.name for s in front([make("a", 1, 0.2), make("b", 2, 0.1), make("c", 3, 0.5), make("d", 3, 0.4)])]
        ['a', 'c']
    """
    kept: list[Spot] = []
    for spot in sorted(spots, key=lambda spot: (spot.cost, -spot.score)):
        if not kept or spot.score > kept[-1].score:
            kept.append(spot)
    return kept


def draw_cost(
    spots: Sequence[Spot], *, width: int, x_text: Any, y_text: Any, labelled: str, level: tuple[Any, float] | None
) -> Markup:
    """Draw them.

    Args:
        spots: At least one.
        width: Pixels.
        x_text: What the cost is, with its unit.
        y_text: What the score is.
        labelled: The id of the element that says what it shows.
        level: The words and the score of a line across: the model before training.
    """
    height, costs = (400 if width > 500 else 350), [spot.cost for spot in spots]
    log = max(costs) / min(costs) > 4
    heights = [end for spot in spots for end in (spot.low, spot.high)] + ([level[1]] if level else [])
    low, high = padded(heights)
    y = Scale(low=max(0.0, low) if min(heights) >= 0 else low, high=high, start=height - 52, end=44)
    left, right = padded(costs, log=log, share=0.12)
    x = Scale(low=left, high=right, start=56, end=width - 20, log=log)
    body: list[Any] = [frame(x, y, x_text=x_text, y_text=y_text, counts=(6 if width > 500 else 3, 5))]
    if level:
        body.append(line(x.start, y(level[1]), x.end, y(level[1]), "level"))
        body.append(words(x.end, y(level[1]) - 6, level[0], "soft small", "end"))
    best = front(spots)
    steps = "".join(f"H{x(b.cost):.1f}V{y(b.score):.1f}" for _, b in pairwise(best))
    body.append(tag("path", class_="front", d=f"M{x(best[0].cost):.1f} {y(best[0].score):.1f}{steps}H{x.end:.1f}"))
    taken = [(x(spot.cost) - 8, y(spot.high) - 2, x(spot.cost) + 8, y(spot.low) + 2) for spot in spots]
    for spot in sorted(spots, key=lambda spot: -spot.score):
        at, up = x(spot.cost), y(spot.score)
        body.append(bar(at, y(spot.low), at, y(spot.high), spot.kind))
        body.append(mark(at, up, spot.kind, f"{spot.name}: {spot.score:.3f}, {short(spot.cost)}"))
    for spot in sorted(spots, key=lambda spot: -spot.score):
        place = _place(spot.name, x(spot.cost), y(spot.score), (y(spot.low), y(spot.high)), taken, (x.start, x.end))
        if place:
            taken.append(place[0])
            body.append(words(place[1], place[0][3] - 4, spot.name, "value", place[2]))
    return document(width, height, labelled, body)


Box = tuple[float, float, float, float]  # left, top, right, bottom


def _place(
    name: str, at: float, up: float, ends: tuple[float, float], taken: Sequence[Box], edges: tuple[float, float]
) -> tuple[Box, float, str] | None:
    """A free place for a name beside its mark, or None where there is none (the table has it)."""
    wide = width_of(name, 12.5)
    for down in (0, -15, 15, -28, 28):
        for left, anchor in ((at + 11, "start"), (at - 11 - wide, "end")):
            box = (left, up - 9 + down, left + wide, up + 8 + down)
            if _free(box, taken, edges):
                return box, (left if anchor == "start" else left + wide), anchor
    for top in (ends[1] - 20, ends[0] + 5):
        box = (at - wide / 2, top, at + wide / 2, top + 16)
        if _free(box, taken, edges):
            return box, at, "middle"
    return None


def _free(box: Box, taken: Sequence[Box], edges: tuple[float, float]) -> bool:
    inside = box[0] >= edges[0] and box[2] <= edges[1] + 16
    return inside and not any(
        box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken
    )
