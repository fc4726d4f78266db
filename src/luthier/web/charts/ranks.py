# SPDX-License-Identifier: Apache-2.0
"""A number against rank: a line each method, error bars, and lines across for what has no rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.web.charts.svg import Scale, bar, document, frame, line, mark, padded, spread, width_of, words
from luthier.web.markup import Markup, tag

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Place:
    """One variant.

    Attributes:
        name: For those who point at it.
        group: Its method: variants of one group are joined by a line.
        kind: Colour and shape of the group.
        rank: Its rank, or None.
        value: What is shown.
        low: Lower end of its interval.
        high: Upper end.
    """

    name: str
    group: str
    kind: str
    rank: float | None
    value: float
    low: float
    high: float


def draw_ranks(
    places: Sequence[Place], *, width: int, x_text: Any, y_text: Any, labelled: str, log: bool = False
) -> Markup:
    """Draw them.

    Args:
        places: At least one with a rank.
        width: Pixels.
        x_text: What the horizontal axis is.
        y_text: What is shown.
        labelled: The id of the element that says what it shows.
        log: Whether the vertical axis is logarithmic.
    """
    height = 380 if width > 500 else 340
    ranked = [place for place in places if place.rank is not None]
    others = [place for place in places if place.rank is None]
    groups = list(dict.fromkeys(place.group for place in ranked))
    ends = [end for place in places for end in (place.low, place.high)]
    low, high = padded(ends, log=log, share=0.05)
    room = max(width_of(name) for name in [*groups, *(place.name for place in others)]) + 26
    y = Scale(low=max(0.0, low) if not log and min(ends) >= 0 else low, high=high, start=height - 52, end=44, log=log)
    ranks = sorted({place.rank for place in ranked if place.rank is not None})
    x = Scale(low=ranks[0] / 1.3, high=ranks[-1] * 1.3, start=60, end=width - room, log=True)
    marks = [rank for n, rank in enumerate(ranks) if n == 0 or x(rank) - x(ranks[n - 1]) > 22]
    body: list[Any] = [frame(x, y, x_text=x_text, y_text=y_text, x_form=lambda v: f"{v:g}", counts=(0, 5), marks=marks)]
    for place in others:
        body.append(line(x.start, y(place.value), x.end, y(place.value), f"level {place.kind}"))
    labels = [(place.name, place.kind, y(place.value), x.end) for place in others]
    for index, group in enumerate(groups):
        mine = sorted((place for place in ranked if place.group == group), key=lambda place: place.rank or 0)
        aside = (index - (len(groups) - 1) / 2) * 5  # bars at one rank stand side by side
        spots = [(x(place.rank or 0) + aside, y(place.value)) for place in mine]
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in spots)
        body.append(tag("path", class_=f"join {mine[0].kind}", d=f"M{path}"))
        for place, (a, b) in zip(mine, spots, strict=True):
            body.append(bar(a, y(place.low), a, y(place.high), place.kind))
            body.append(mark(a, b, place.kind, f"{place.name}: {place.value:.3g}"))
        labels.append((group, mine[0].kind, spots[-1][1], spots[-1][0] + 8))
    where = spread([label[2] for label in labels], 16, y.end, y.start)
    for (name, kind, at, start), place_y in zip(labels, where, strict=True):
        body.append(line(start, at, x.end + 8, place_y, f"lead {kind}"))
        body.append(words(x.end + 12, place_y + 4.5, name, f"small name {kind}"))
    return document(width, height, labelled, body)
