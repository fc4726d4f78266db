# SPDX-License-Identifier: Apache-2.0
"""A study's picture: from the plain data of its result to picture.svg, and into its report.md."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.web.charts.scores import Chart, Point, draw

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "picture.svg"
_MARK = "<!-- picture -->"  # the report leaves this line where the picture goes


def add_picture(result: Mapping[str, Any]) -> Path | None:
    """Draw a study's scores and set the picture into its report.

    Args:
        result: What `StudyResult.to_json()` gives: `folder` and `picture` are read.

    Returns:
        Where the picture stands, or None where no run has a score.
    """
    folder, chart = Path(result["folder"]), chart_of(result["picture"])
    if not chart.points:
        return None
    path = folder / NAME
    path.write_text(draw(chart), encoding="utf-8")
    report = folder / "report.md"
    text = report.read_text(encoding="utf-8")
    report.write_text(text.replace(_MARK, f"![{chart.title}]({NAME})"), encoding="utf-8")
    return path


def chart_of(picture: Mapping[str, Any]) -> Chart:
    """Build the chart from plain data; variants without a score are left out."""
    points = [
        Point(
            name=point["variant"],
            group=point["group"],
            x=point["x"],
            value=point["score"],
            stderr=_known(point["stderr"]),
            low=_known(point.get("low")),
            high=_known(point.get("high")),
        )
        for point in picture["points"]
        if point["score"] is not None
    ]
    places = [place for place in picture["places"] if any(point.x == place for point in points)]
    return Chart(
        title=picture["title"],
        subtitle=picture["subtitle"],
        x_label=picture["x_label"],
        places=places,
        points=points,
    )


def _known(value: float | None) -> float:
    return math.nan if value is None else value
