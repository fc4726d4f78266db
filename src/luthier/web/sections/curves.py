# SPDX-License-Identifier: Apache-2.0
"""Learning curves: loss by step, by tokens and by seconds, a thin line each seed and a thick one for their mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.web.charts.curves import Curve, draw_curves, mean_line
from luthier.web.forms import count, number
from luthier.web.markup import Markup, both, both_svg
from luthier.web.sections._pieces import choice, figure, looks, table

if TYPE_CHECKING:
    from luthier.web.gather import Found
    from luthier.web.runs import Seen

MOST = 24  # variants with a name at the end of their line
_AXES = ("step", "tokens", "seconds")


def curves(found: Found) -> Markup:
    """The section; empty before the first logged step."""
    made = []
    for axis in _AXES:
        lines = _curves(found, axis, "loss")
        if lines and (axis == "step" or max(x for line in lines for run in line.runs for x, _ in run) > 0):
            made.append((axis, both(f"axis_{axis}"), _figure(found, lines, axis, "loss")))
    if not made:
        return Markup("")
    held_out = _curves(found, "step", "eval_loss")
    if held_out:
        made.append(("held_out", both("held_out"), _figure(found, held_out, "step", "eval_loss")))
    return choice("curve", both("against_axis"), made)


def _figure(found: Found, lines: list[Curve], axis: str, key: str) -> Markup:
    several = max(len(line.runs) for line in lines)
    name = f"curves-{axis}-{key}"
    caption = both(
        "curves" if several > 1 else "curves_one",
        what=both(f"of_{key}"),
        axis=both(f"by_{axis}"),
        left=both("left_out", n=len(found.variants) - len(lines)) if len(found.variants) > len(lines) else "",
    )
    rows = [
        [line.name, str(len(line.runs)), number(points[0][1]), number(points[-1][1]), count(points[-1][0])]
        for line in lines
        for points in [mean_line(line.runs)]
    ]
    heads = [both(f"head_{head}") for head in ("variant", "seeds", "first_loss", "last_loss")] + [both(f"axis_{axis}")]
    return figure(
        name,
        caption,
        lambda width, label: draw_curves(
            lines, width=width, x_text=both_svg(f"axis_{axis}"), y_text=both_svg(f"y_{key}"), labelled=label
        ),
        table(both("curves_table"), heads, rows, name=name),
    )


def _curves(found: Found, axis: str, key: str) -> list[Curve]:
    known = looks(found)
    made = []
    for variant in found.variants:
        runs = [_points(run, axis, key) for run in found.runs if run.variant == variant]
        runs = [points for points in runs if points]
        if runs:
            look = known[variant]
            made.append(Curve(name=variant, kind=look.kind, dash=look.dash, runs=_even(runs)))
    return made[:MOST]


def _points(run: Seen, axis: str, key: str) -> list[tuple[float, float]]:
    if key == "loss":
        return [(float(line.get(axis) or 0), float(line["loss"])) for line in run.curve]
    return [(float(line["step"]), float(line[key])) for line in run.held_out]


def _even(runs: list[list[tuple[float, float]]]) -> list[list[tuple[float, float]]]:
    """Runs that just began would end the mean of the others: it is taken over those that are at least half as far."""
    longest = max(map(len, runs))
    return sorted(runs, key=len, reverse=True)[: sum(2 * len(run) >= longest for run in runs)]
