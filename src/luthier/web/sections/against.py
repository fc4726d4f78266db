# SPDX-License-Identifier: Apache-2.0
"""Score against what it cost, score against rank, and the gradient's norm against rank."""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

from luthier.web.charts.cost import Spot, draw_cost, front
from luthier.web.charts.ranks import Place, draw_ranks
from luthier.web.fill import BASE
from luthier.web.forms import count, ends, interval, known, number, operations, seconds, size
from luthier.web.markup import Markup, both, both_svg, joined, tag
from luthier.web.sections._pieces import choice, figure, looks, note, table

if TYPE_CHECKING:
    from luthier.web.gather import Found

EARLY = 10  # the first tenth of a run: later the norm follows the loss, which differs between variants
# Key of a row -> what divides it for the axis, and how it is written.
_COSTS: dict[str, tuple[float, Any]] = {
    "seconds": (1.0, seconds),
    "state_bytes": (float(1 << 20), size),
    "peak_memory_bytes": (float(1 << 20), size),
    "flops": (1.0, operations),
    "trainable_parameters": (1.0, count),
}


def cost(found: Found) -> Markup:
    """Score against each cost that was measured."""
    rows = [row for row in found.rows.get(found.suite, []) if known(row.get("score")) and row["variant"] != BASE]
    base = next((row for row in found.rows.get(found.suite, []) if row["variant"] == BASE), None)
    level = (both_svg("before_training"), float(base["score"])) if base and known(base.get("score")) else None
    made = []
    for key, (unit, form) in _COSTS.items():
        priced = [row for row in rows if known(row.get(key)) and row[key] > 0]
        if len(priced) > 1:
            made.append((key, both(f"head_{key}"), _cost_figure(found, priced, key, unit, form, level)))
    return choice("cost", both("choose_cost"), made) if made else Markup("")


def _cost_figure(
    found: Found, rows: list[dict[str, Any]], key: str, unit: float, form: Any, level: tuple[Any, float] | None
) -> Markup:
    known_looks = looks(found)
    spots = []
    for row in rows:
        low, high = interval(row, "score") or (row["score"], row["score"])
        kind = known_looks[row["variant"]].kind if row["variant"] in known_looks else "gb"
        spots.append(Spot(name=row["variant"], kind=kind, cost=row[key] / unit, score=row["score"], low=low, high=high))
    best = [spot.name for spot in front(spots)]
    lines = [
        [row["variant"], form(row[key]), number(row["score"]), ends(*(interval(row, "score") or (None, None))),
         both("yes" if row["variant"] in best else "no")]
        for row in sorted(rows, key=lambda row: row[key])
    ]  # fmt: skip
    heads = [both("head_variant"), both(f"head_{key}"), both("head_score"), both("head_ends"), both("head_front")]
    return figure(
        f"cost-{key}",
        both(
            "cost_caption",
            cost=both(f"unit_{key}"),
            names=joined([[", " if n else "", tag("b", v)] for n, v in enumerate(best)]),
        ),
        lambda width, label: draw_cost(
            spots, width=width, x_text=both_svg(f"unit_{key}"), y_text=both_svg("y_score"), labelled=label, level=level
        ),
        table(both("cost_table"), heads, lines, name=f"cost-{key}"),
    )


def ranks(found: Found) -> Markup:
    """Score against rank; empty unless variants with two ranks have a score."""
    places = []
    for row in found.rows.get(found.suite, []):
        if known(row.get("score")) and row["variant"] in found.variants:
            low, high = interval(row, "score") or (row["score"], row["score"])
            places.append(_place(found, row["variant"], row["score"], low, high))
    return _rank_figure(places, "score", log=False)


def gradients(found: Found) -> Markup:
    """The gradient's norm against rank: what alpha / r does to it and alpha / sqrt(r) does not."""
    places = []
    for variant in found.variants:
        if found.rank(variant) is None:
            continue
        norms = [
            median(values[: max(1, len(values) // EARLY)])
            for run in found.runs
            if run.variant == variant
            and (values := [line["grad_norm"] for line in run.curve if known(line.get("grad_norm"))])
        ]
        if norms and min(norms) > 0:
            mean = sum(norms) / len(norms)
            places.append(_place(found, variant, mean, min(norms), max(norms)))
    made = _rank_figure(places, "grad", log=True)
    return joined(made, note("why_rank")) if made else made


def _place(found: Found, variant: str, value: float, low: float, high: float) -> Place:
    look, rank = looks(found)[variant], found.rank(variant)
    group = look.group if rank is not None else variant
    return Place(name=variant, group=group, kind=look.kind, rank=rank, value=value, low=low, high=high)


def _rank_figure(places: list[Place], what: str, *, log: bool) -> Markup:
    ranked = [place for place in places if place.rank is not None]
    spots = [(place.group, place.rank) for place in ranked]
    if len({place.rank for place in ranked}) < 2 or len(set(spots)) < len(spots):
        return Markup("")  # two variants in one spot would hide each other
    if len({place.group for place in ranked}) == 1:  # one line has one colour, also where variants have one each
        places = [replace(place, kind="g0") if place.rank is not None else place for place in places]
    rows = [
        [place.name, number(place.rank, 0) if place.rank else "–", number(place.value, 4 if log else 3),
         ends(place.low, place.high, 4 if log else 3)]
        for place in places
    ]  # fmt: skip
    heads = [both("head_variant"), both("head_rank"), both(f"head_{what}"), both("head_ends")]
    return figure(
        f"rank-{what}",
        both(f"rank_{what}"),
        lambda width, label: draw_ranks(
            places, width=width, x_text=both_svg("axis_rank"), y_text=both_svg(f"y_{what}"), labelled=label, log=log
        ),
        table(both(f"rank_{what}"), heads, rows, name=f"rank-{what}"),
    )
