# SPDX-License-Identifier: Apache-2.0
"""Learning curves: a thin line each seed, a thick one for their mean, and its name where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from luthier.web.charts.svg import Scale, document, frame, line, padded, spread, width_of, words
from luthier.web.markup import Markup, joined, tag

POINTS = 140  # of a line; more are averaged: two lines of 1,000 points are the same picture at ten times the size
SMOOTH = 12  # the mean is averaged over a window of 1 / SMOOTH of its length
_LOG = 5.0  # a range of more than this factor is drawn on a logarithmic axis
_LABEL = 16  # pixels from one label to the next

Line = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One variant.

    Attributes:
        name: Stands at its end.
        kind: Its colour: g0 ... g5.
        dash: Its pattern: 0 (none) to 3.
        runs: A line of (x, y) for each seed.
    """

    name: str
    kind: str
    dash: int
    runs: Sequence[Line]


def draw_curves(
    curves: Sequence[Curve], *, width: int, x_text: Any, y_text: Any, labelled: str, may_log: bool = True
) -> Markup:
    """Draw them.

    Args:
        curves: With at least one point each.
        width: Pixels.
        x_text: What the horizontal axis is.
        y_text: What the vertical axis is.
        labelled: The id of the element that says what it shows.
        may_log: Whether a wide range may be drawn on a logarithmic axis: not for shares, nor for what may be negative.
    """
    height = max(400 if width > 500 else 340, 110 + _LABEL * len(curves))
    thin = [thinned(run, POINTS) for curve in curves for run in curve.runs]
    means = [mean_line(curve.runs) for curve in curves]
    # Single steps of small batches jump far: the highest and lowest hundredth of them do not set the scale.
    jumps = sorted(y for points in thin for _, y in points)
    values = [y for points in means for _, y in points] + jumps[len(jumps) // 100 : len(jumps) - len(jumps) // 100]
    log = may_log and min(values) > 0 and max(values) / min(values) > _LOG
    low, high = padded(values, log=log, share=0.04)
    names = [_cut(curve.name, 22 if width > 500 else 13) for curve in curves]
    room = max(width_of(name) for name in names) + 34
    y = Scale(low=low, high=high, start=height - 52, end=44, log=log)
    x = Scale(low=0, high=max(p[0] for points in thin for p in points), start=56, end=width - room)
    body: list[Any] = [frame(x, y, x_text=x_text, y_text=y_text, counts=(5 if width > 500 else 3, 5))]
    seeds, faint = iter(thin), "thin" if len(thin) > 4 else "thin few"  # many thin lines would hide the thick ones
    for curve in curves:
        body += [_path(next(seeds), x, y, f"{faint} {curve.kind}") for _ in curve.runs]
    ends = spread([y(points[-1][1]) for points in means], _LABEL, y.end, y.start)
    for curve, name, points, place in zip(curves, names, means, ends, strict=True):
        body.append(_path(points, x, y, f"mean {curve.kind} d{curve.dash}"))
        last = points[-1]
        at = x(last[0])
        body.append(line(at + 2, y(last[1]), x.end + 12, place, f"lead {curve.kind}"))
        sample = tag("path", class_=f"mean {curve.kind} d{curve.dash}", d=f"M{x.end + 12:.1f} {place:.1f}h14")
        body.append(tag("g", tag("title", curve.name), sample, words(x.end + 30, place + 4.5, name, "small")))
    return document(width, height, labelled, body)


def mean_line(runs: Sequence[Line]) -> list[tuple[float, float]]:
    """The mean over seeds as far as all of them go, averaged over a window.

    Example:
        >>> mean_line([[(1, 2.0), (2, 4.0)], [(1, 4.0), (2, 6.0), (3, 9.0)]])
        [(1.0, 3.0), (2.0, 5.0)]
    """
    length = min(map(len, runs))
    points = [
        (sum(run[n][0] for run in runs) / len(runs), sum(run[n][1] for run in runs) / len(runs)) for n in range(length)
    ]
    half = length // SMOOTH // 2
    heights = [0.0]
    for _, height in points:
        heights.append(heights[-1] + height)
    smooth = []
    for number, (x, _) in enumerate(points):
        first, last = max(0, number - half), min(length, number + half + 1)  # shorter at both ends
        smooth.append((x, (heights[last] - heights[first]) / (last - first)))
    return thinned(smooth, POINTS)


def thinned(points: Line, count: int) -> list[tuple[float, float]]:
    """At most so many points, each the mean of its neighbours; the first and the last one stay.

    Example:
        >>> thinned([(0, 0), (1, 1), (2, 3), (3, 3)], 3)
        [(0, 0), (1.5, 2.0), (3, 3)]
    """
    if len(points) <= count:
        return list(points)
    inner, parts = points[1:-1], count - 2
    edges = [len(inner) * number // parts for number in range(parts + 1)]
    bins = [inner[a:b] for a, b in pairwise(edges) if b > a]
    means = [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in bins]
    return [points[0], *means, points[-1]]


def _path(points: Line, x: Scale, y: Scale, kind: str) -> Markup:
    if len(points) == 1:
        return tag("circle", class_=f"dot {kind}", cx=f"{x(points[0][0]):.1f}", cy=f"{y(points[0][1]):.1f}", r=2)
    spots = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in points)
    return joined(tag("path", class_=kind, d=f"M{spots}"))


def _cut(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
