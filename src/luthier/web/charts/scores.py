# SPDX-License-Identifier: Apache-2.0
"""Scores with error bars as hand-written SVG: dots over ranks, or one line for each variant.

The picture carries its own colours for light and dark pages, tells groups by shape as well as by colour, and has a
title and a description for those who hear it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from luthier.web.charts.svg import bar, shape, words

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH = 760
BARS = 2.0  # standard errors that a bar reaches to either side where no interval is known
UNTRAINED = "before training"  # the group of the model before training
# Light and dark: at least 4.5 to 1 against the page; blue, orange, green, violet.
_STYLE = """
.lt{--page:#fff;--ink:#1f2328;--soft:#57606a;--rule:#d0d7de;--g0:#0b62c4;--g1:#b3500a;--g2:#1a7f37;--g3:#7a3fb8}
@media (prefers-color-scheme:dark){
.lt{--page:#0d1117;--ink:#e6edf3;--soft:#9aa4b0;--rule:#30363d;--g0:#6cb6ff;--g1:#f0a35e;--g2:#6bc46d;--g3:#c7a2f5}}
.lt text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;font-size:14px;fill:var(--ink)}
.lt .title{font-size:17px;font-weight:600}.lt .soft{fill:var(--soft)}.lt .small{font-size:13px}
.lt .rule{stroke:var(--rule);stroke-width:1}.lt .zero{stroke:var(--soft);stroke-width:1}
.lt .g0{--c:var(--g0)}.lt .g1{--c:var(--g1)}.lt .g2{--c:var(--g2)}.lt .g3{--c:var(--g3)}.lt .gb{--c:var(--soft)}
.lt .value{font-size:13px;text-anchor:middle;paint-order:stroke;stroke:var(--page);stroke-width:4px}
.lt .mark{fill:var(--c)}.lt .bar{stroke:var(--c);stroke-width:2}
.lt .path{stroke:var(--c);stroke-width:1.5;stroke-dasharray:5 4;fill:none;opacity:.75}
""".strip().replace("\n", "")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One variant.

    Attributes:
        name: For those who hear the picture.
        group: What shares a colour and a shape.
        x: Its place on the horizontal axis, as a word.
        value: Its score.
        stderr: The score's standard error; NaN draws no bar.
        low: Lower end of the score's interval, where the bar begins; NaN takes two standard errors instead.
        high: Upper end.
    """

    name: str
    group: str
    x: str
    value: float
    stderr: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What a picture shows.

    Attributes:
        title: The condition under which the scores hold.
        subtitle: Suite, items, seeds: how sure they are.
        x_label: What the horizontal axis is; empty for one line each variant.
        places: The horizontal axis in order.
        points: The scores.
    """

    title: str
    subtitle: str
    x_label: str
    places: Sequence[str]
    points: Sequence[Point]

    @property
    def groups(self) -> list[str]:
        """Groups in order of appearance."""
        return list(dict.fromkeys(point.group for point in self.points))


def draw(chart: Chart) -> str:
    """Draw a chart as one SVG document.

    Args:
        chart: With at least one point.

    Example:
        >>> point = Point(name="a", group="LoRA", x="16", value=0.5, stderr=0.02)
        >>> draw(Chart(title="t", subtitle="s", x_label="rank", places=["16"], points=[point]))[:4]
        '<svg'
    """
    title = _wrapped(chart.title, 64)
    top = 28 + 23 * len(title)
    body, height = _columns(chart, top + 66) if chart.x_label else _lines(chart, top + 20)
    described = "; ".join(f"{p.name} {p.value:.3f}{_spoken(p)}" for p in chart.points)
    head = [words(24, 34 + 23 * number, line, "title") for number, line in enumerate(title)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="lt" role="img" aria-labelledby="lt-title lt-desc" '
            f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
            f'<title id="lt-title">{escape(chart.title)}</title>',
            f'<desc id="lt-desc">{escape(f"{chart.subtitle}. Scores: {described}.")}</desc>',
            f"<style>{_STYLE}</style>",
            f'<rect width="{WIDTH}" height="{height}" fill="var(--page)"/>',
            *head,
            words(24, top + 10, chart.subtitle, "soft small"),
            *body,
            "</svg>",
            "",
        ]
    )


def _columns(chart: Chart, top: int) -> tuple[list[str], int]:
    """Dots over the places of the horizontal axis, side by side where groups share a place."""
    left, right, bottom = 70, WIDTH - 28, top + 300
    high = _ceiling(chart)
    step = (right - left) / len(chart.places)

    def y_of(value: float) -> float:
        return bottom - (bottom - top) * min(max(value, 0.0), high) / high

    body, labels = _legend(chart, top - 28), []
    for tick in _ticks(high):
        kind = "zero" if tick == 0 else "rule"
        body.append(f'<line class="{kind}" x1="{left}" x2="{right}" y1="{y_of(tick):.1f}" y2="{y_of(tick):.1f}"/>')
        body.append(words(left - 10, y_of(tick) + 5, f"{tick:g}", "soft", "end"))
    turned = f"translate(22 {(top + bottom) / 2:.0f}) rotate(-90)"
    body.append(f'<text class="soft" transform="{turned}" text-anchor="middle">score</text>')
    for number, place in enumerate(chart.places):
        body.append(words(left + step * (number + 0.5), bottom + 24, place, "", "middle"))
    body.append(words((left + right) / 2, bottom + 50, chart.x_label, "soft", "middle"))
    for group in chart.groups:
        mine = sorted((p for p in chart.points if p.group == group), key=lambda p: chart.places.index(p.x))
        spots = [(left + step * (chart.places.index(p.x) + 0.5) + _aside(chart, p, step), y_of(p.value)) for p in mine]
        kind = _kind(chart, group)
        for (x1, y1), (x2, y2) in pairwise(spots):
            body.append(f'<path class="path {kind}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>')
        for point, (x, y) in zip(mine, spots, strict=True):
            body.append(bar(x, y_of(_low(point)), x, y_of(_high(point)), kind))
            body.append(_mark(x, y, kind, point))
            labels.append(words(x, y_of(_high(point)) - 9, f"{point.value:.2f}", "value", "middle"))
    return body + labels, bottom + 70


def _lines(chart: Chart, top: int) -> tuple[list[str], int]:
    """One line for each variant: its name, its score, its error."""
    left, right = 40 + 9 * min(34, max(len(point.name) for point in chart.points)), WIDTH - 80
    bottom = top + 34 * len(chart.points)
    high = _ceiling(chart)

    def x_of(value: float) -> float:
        return left + (right - left) * min(max(value, 0.0), high) / high

    body = []
    for tick in _ticks(high):
        kind = "zero" if tick == 0 else "rule"
        body.append(f'<line class="{kind}" x1="{x_of(tick):.1f}" x2="{x_of(tick):.1f}" y1="{top}" y2="{bottom}"/>')
        body.append(words(x_of(tick), bottom + 22, f"{tick:g}", "soft", "middle"))
    body.append(words((left + right) / 2, bottom + 48, "score", "soft", "middle"))
    for number, point in enumerate(chart.points):
        y, kind = top + 34 * number + 17, _kind(chart, point.group)
        name = point.name if len(point.name) <= 34 else point.name[:33] + "…"
        body.append(words(left - 14, y + 5, name, "", "end"))
        body.append(bar(x_of(_low(point)), y, x_of(_high(point)), y, kind))
        body.append(_mark(x_of(point.value), y, kind, point))
        body.append(words(right + 14, y + 5, f"{point.value:.3f}", "small"))
    return body, bottom + 66


def _aside(chart: Chart, point: Point, step: float) -> float:
    """How far a dot stands beside the middle of its place, so that groups do not cover each other."""
    here = [group for group in chart.groups if any(p.x == point.x and p.group == group for p in chart.points)]
    return (here.index(point.group) - (len(here) - 1) / 2) * min(44.0, step / (len(here) + 0.5))


def _legend(chart: Chart, y: float) -> list[str]:
    body: list[str] = []
    x = 80.0
    for group in chart.groups:
        body.append(shape(x, y, _kind(chart, group)))
        body.append(words(x + 13, y + 5, group))
        x += 44 + 7.8 * len(group)
    return body


def _kind(chart: Chart, group: str) -> str:
    """Colour and shape of a group; the model before training is grey, so methods keep theirs with and without it."""
    methods = [name for name in chart.groups if name != UNTRAINED]
    return "gb" if group == UNTRAINED else f"g{methods.index(group) % 4}"


def _mark(x: float, y: float, kind: str, point: Point) -> str:
    said = escape(f"{point.name}: {point.value:.3f}{_spoken(point)}")
    return f"<g><title>{said}</title>{shape(x, y, kind)}</g>"


def _reach(point: Point) -> float:
    return 0.0 if math.isnan(point.stderr) else BARS * point.stderr


def _low(point: Point) -> float:
    return point.value - _reach(point) if math.isnan(point.low) else point.low


def _high(point: Point) -> float:
    return point.value + _reach(point) if math.isnan(point.high) else point.high


def _spoken(point: Point) -> str:
    if not math.isnan(point.low):
        return f", between {point.low:.3f} and {point.high:.3f}"
    return "" if math.isnan(point.stderr) else f" ± {point.stderr:.3f}"


def _ceiling(chart: Chart) -> float:
    """The top of the axis: the highest bar, rounded up to a tick, and at most 1."""
    highest = max(_high(point) for point in chart.points)
    return next((tick for tick in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8) if highest * 1.03 <= tick), 1.0)


def _ticks(high: float) -> list[float]:
    count = 4 if high in (0.2, 0.4, 0.8) else 3 if high == 0.6 else 5
    return [high * number / count for number in range(count + 1)]


def _wrapped(words: str, width: int) -> list[str]:
    lines = [""]
    for word in words.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
