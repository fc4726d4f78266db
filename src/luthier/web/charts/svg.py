# SPDX-License-Identifier: Apache-2.0
"""What all charts are drawn with: scales and their ticks, texts, marks, error bars, labels that do not collide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.web.markup import Markup, joined, tag

if TYPE_CHECKING:
    from collections.abc import Sequence

# Of squares, diamonds, triangles, triangles that stand on their tip, crosses; the others are circles.
CORNERS: dict[str, list[tuple[float, float]]] = {
    "g1": [(-5.5, -5.5), (5.5, -5.5), (5.5, 5.5), (-5.5, 5.5)],
    "g2": [(0, -7.5), (7.5, 0), (0, 7.5), (-7.5, 0)],
    "g3": [(0, -7), (7, 6), (-7, 6)],
    "g4": [(0, 7), (7, -6), (-7, -6)],
    "g5": [(-2, -6), (2, -6), (2, -2), (6, -2), (6, 2), (2, 2), (2, 6), (-2, 6), (-2, 2), (-6, 2), (-6, -2), (-2, -2)],
}
KINDS = 6  # colours with shapes; the seventh group begins again
LETTER = 7.2  # pixels that a letter of 13 px takes on average


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Values to pixels.

    Attributes:
        low: Value at `start`.
        high: Value at `end`.
        start: Pixel.
        end: Pixel; below `start` for a vertical axis.
        log: Whether equal ratios are equally far apart.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value, kept inside the axis."""
        low, high = self._bent(self.low), self._bent(self.high)
        share = (self._bent(value) - low) / (high - low) if high > low else 0.5
        return self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the axis, about so many."""
        return log_ticks(self.low, self.high, count) if self.log else linear_ticks(self.low, self.high, count)

    def _bent(self, value: float) -> float:
        return math.log(max(value, 1e-300)) if self.log else value


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten.

    Example:
        >>> linear_ticks(0.0, 0.37, 4)
        [0.0, 0.1, 0.2, 0.3]
    """
    if not high > low:
        return [low]
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw * 0.72)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def log_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Powers of ten, with 2 and 5 (or 3) times them where there is room.

    Example:
        >>> log_ticks(0.5, 60)
        [0.5, 1, 2, 5, 10, 20, 50]
    """
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        made = [float(f"{factor}e{power}") for power in powers for factor in factors]
        inside = [tick for tick in made if low * 0.999 <= tick <= high * 1.001]
        if len(inside) <= count + 2:
            break
    inside = inside[:: max(1, math.ceil(len(inside) / (count + 2)))]  # many powers: every second or third
    ticks = inside if len(inside) > 1 else linear_ticks(low, high, count)
    return [int(tick) if tick >= 1 and tick == int(tick) else tick for tick in ticks]


def short(value: float) -> str:
    """A number in a few letters.

    Example:
        >>> [short(v) for v in (0.25, 40, 1500, 75000, 2e6, 3.5e9)]
        ['0.25', '40', '1.5k', '75k', '2M', '3.5G']
    """
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def padded(values: Sequence[float], *, log: bool = False, share: float = 0.08) -> tuple[float, float]:
    """The range of values with some air at both ends."""
    low, high = min(values), max(values)
    if log:
        factor = max((high / low) ** share, 1.25)
        return low / factor, high * factor
    air = (high - low) * share or abs(high) * share or 1.0
    return low - air, high + air


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart, each as little as it must, in the order of where they belong.

    Args:
        wanted: Where each belongs.
        gap: Least distance between two, where there is room for it.
        low: Least place.
        high: Greatest place.

    Example:
        >>> spread([10, 11, 40], 10, 0, 100)
        [5.5, 15.5, 40.0]
    """
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda number: wanted[number])
    groups: list[tuple[float, int]] = []  # (mean of what its members want for its first place, how many)
    for rank, number in enumerate(order):
        place, size = float(wanted[number]), 1
        while groups and groups[-1][0] + groups[-1][1] * gap > place:
            before, count = groups.pop()
            place = (before * count + (place - count * gap) * size) / (count + size)
            size += count
        place = min(max(place, low + (rank + 1 - size) * gap), high - (len(wanted) - (rank + 1 - size) - 1) * gap)
        groups.append((place, size))
    places = [place + step * gap for place, size in groups for step in range(size)]
    found = [0.0] * len(wanted)
    for number, place in zip(order, places, strict=True):
        found[number] = place
    return found


def words(x: float, y: float, text: Any, kind: str = "", anchor: str = "start", **more: Any) -> Markup:
    """A text."""
    return tag("text", text, class_=kind or None, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, **more)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line."""
    return tag("line", class_=kind, x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}")


def bar(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """An error bar: a line with short ends across it."""
    if (x1, y1) == (x2, y2):
        return Markup("")
    dx, dy = (5, 0) if x1 == x2 else (0, 5)
    ends = [(x1, y1, x2, y2), (x1 - dx, y1 - dy, x1 + dx, y1 + dy), (x2 - dx, y2 - dy, x2 + dx, y2 + dy)]
    return joined([line(*end, f"bar {kind}") for end in ends])


def shape(x: float, y: float, kind: str, size: float = 1.0) -> Markup:
    """The mark of a group: a shape and a colour of its own."""
    if kind not in CORNERS:
        return tag("circle", class_=f"mark {kind}", cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{6 * size:g}")
    corners = " ".join(f"{x + size * a:.1f},{y + size * b:.1f}" for a, b in CORNERS[kind])
    return tag("polygon", class_=f"mark {kind}", points=corners)


def mark(x: float, y: float, kind: str, spoken: str) -> Markup:
    """A shape that says what it is when one points at it."""
    return tag("g", tag("title", spoken), shape(x, y, kind))


def width_of(text: str, size: float = 13.0) -> float:
    """About how wide a text is, in pixels."""
    return sum(size if ord(letter) > 0x2E80 else LETTER * size / 13 for letter in text)


def document(width: int, height: float, labelled: str, *body: Any) -> Markup:
    """The whole SVG, inside a page that has its styles.

    Args:
        width: Pixels.
        height: Pixels.
        labelled: The id of the element that says what it shows.
        body: What it shows.
    """
    return tag(
        "svg", *body, class_="lt", role="img", aria_labelledby=labelled, viewBox=f"0 0 {width} {height:.0f}",
        width=width, height=f"{height:.0f}",
    )  # fmt: skip


def frame(
    x: Scale, y: Scale, *, x_text: Any, y_text: Any, x_form: Any = short, counts: tuple[int, int] = (5, 5),
    marks: Sequence[float] | None = None,
) -> Markup:  # fmt: skip
    """Horizontal rules with their values, ticks below, and what both axes are.

    Args:
        x: Of the horizontal axis.
        y: Of the vertical axis.
        x_text: What the horizontal axis is.
        y_text: What the vertical axis is; it stands above it, level.
        x_form: Value on the horizontal axis -> text.
        counts: About how many ticks there are, across and up.
        marks: The ticks of the horizontal axis, where they are given.
    """
    made = []
    for tick in y.ticks(counts[1]):
        made.append(line(x.start, y(tick), x.end, y(tick), "zero" if tick == 0 else "rule"))
        made.append(words(x.start - 8, y(tick) + 4.5, short(tick), "soft small", "end"))
    for tick in x.ticks(counts[0]) if marks is None else marks:
        made.append(line(x(tick), y.start, x(tick), y.start + 5, "zero"))
        made.append(words(x(tick), y.start + 21, x_form(tick), "soft small", "middle"))
    made.append(words((x.start + x.end) / 2, y.start + 42, x_text, "soft small", "middle"))
    made.append(words(8, y.end - 14, y_text, "soft small"))
    return joined(made)
