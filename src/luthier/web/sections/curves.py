# SPDX-License-Identifier: Apache-2.0
"""Learning curves by step, tokens and seconds, a thin line each seed and a thick one for their mean.

The loss of every run; where runs are trained on judged answers, how far and how often their rewards prefer the better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.web.charts.curves import Curve, draw_curves, mean_line
from luthier.web.forms import count, known, number
from luthier.web.markup import Markup, both, both_svg, joined, tag
from luthier.web.sections._pieces import choice, figure, looks, note, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.web.gather import Found

MOST = 24  # variants with a name at the end of their line
_AXES = ("step", "tokens", "seconds")
# What is drawn -> its key in metrics.jsonl; held-out rows have the same with `eval_` before it.
_KEYS = {"loss": "loss", "margins": "rewards/margins", "accuracies": "rewards/accuracies"}


def curves(found: Found) -> Markup:
    """The section; empty before the first logged step."""
    made = {what: part for what in _KEYS if (part := _measure(found, what))}
    if len(made) < 2:
        return joined(*made.values())
    return joined([[tag("h3", both(f"of_{what}")), part] for what, part in made.items()], note("why_rewards"))


def _measure(found: Found, what: str) -> Markup:
    """One quantity against each axis; empty where no run has logged it."""
    made = []
    for axis in _AXES:
        lines = _curves(found, axis, what)
        if lines and (axis == "step" or max(x for line in lines for run in line.runs for x, _ in run) > 0):
            made.append((axis, both(f"axis_{axis}"), _figure(found, lines, axis, what)))
    if not made:
        return Markup("")
    if held_out := _curves(found, "step", what, held_out=True):
        made.append(("held_out", both("held_out"), _figure(found, held_out, "step", f"eval_{what}")))
    return choice("curve" if what == "loss" else f"curve-{what}", both("against_axis"), made)


def _figure(found: Found, lines: list[Curve], axis: str, what: str) -> Markup:
    several = max(len(line.runs) for line in lines)
    name = f"curves-{axis}-{what}"
    caption = both(
        "curves" if several > 1 else "curves_one",
        what=both(f"of_{what}"),
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
            lines,
            width=width,
            x_text=both_svg(f"axis_{axis}"),
            y_text=both_svg(f"y_{what}"),
            labelled=label,
            may_log=what.endswith("loss"),
        ),
        table(both("curves_table"), heads, rows, name=name),
    )


def _curves(found: Found, axis: str, what: str, *, held_out: bool = False) -> list[Curve]:
    key = f"eval_{_KEYS[what]}" if held_out else _KEYS[what]
    every = looks(found)
    made = []
    for variant in found.variants:
        runs = [
            _points(run.held_out if held_out else run.curve, axis, key) for run in found.runs if run.variant == variant
        ]
        runs = [points for points in runs if points]
        if runs:
            look = every[variant]
            made.append(Curve(name=variant, kind=look.kind, dash=look.dash, runs=_even(runs)))
    return made[:MOST]


def _points(lines: Sequence[dict[str, Any]], axis: str, key: str) -> list[tuple[float, float]]:
    return [(float(line.get(axis) or 0), float(line[key])) for line in lines if known(line.get(key))]


def _even(runs: list[list[tuple[float, float]]]) -> list[list[tuple[float, float]]]:
    """Runs that just began would end the mean of the others: it is taken over those that are at least half as far."""
    longest = max(map(len, runs))
    return sorted(runs, key=len, reverse=True)[: sum(2 * len(run) >= longest for run in runs)]
