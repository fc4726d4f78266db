# SPDX-License-Identifier: Apache-2.0
"""The table of each suite: score and difference with their intervals, the verdict, and what each variant cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.web.charts.svg import Scale, bar, line, shape
from luthier.web.fill import BASE
from luthier.web.forms import DASH, count, ends, interval, known, number, operations, p_value, seconds, signed, size
from luthier.web.markup import Markup, both, joined, tag
from luthier.web.sections._pieces import Look, looks, note, table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from luthier.web.gather import Found

_SIGNS = {"better": "▲", "worse": "▼", "no difference seen": "≈", "error unknown": "?"}
_KEYS = {"better": "better", "worse": "worse", "no difference seen": "same", "error unknown": "unknown"}
_COSTS: dict[str, Callable[[Any], str]] = {
    "loss": number,
    "trainable_parameters": count,
    "seconds": seconds,
    "tokens_per_second": count,
    "state_bytes": size,
    "peak_memory_bytes": size,
    "flops": operations,
    "cost_per_point": seconds,
}

_UNTRAINED = Look(kind="gb", dash=0, group="")


def scores(found: Found) -> Markup:
    """The section: a table each suite, and one of costs."""
    made = []
    for suite, items in found.suites.items():
        rows = found.rows.get(suite) or []
        if any(known(row.get("score")) for row in rows):
            made.append(_table(found, suite, items, rows))
    if not made:
        return Markup("")
    rows = [] if found.whole else found.rows[found.suite]  # the study's own intervals allow for it
    extremes = [row["variant"] for row in rows if row.get("score") in (0.0, 1.0)]
    bound = number(3 / max(1, found.suites[found.suite]))
    return joined(
        made,
        note("extremes", names=", ".join(extremes), bound=bound) if extremes else None,
        note("how_bootstrap" if found.whole else "how_normal"),
        tag("h3", both("title_costs")),
        _costs(found, found.rows[found.suite]),
        note("costs"),
    )


def _table(found: Found, suite: str, items: int, rows: Sequence[dict[str, Any]]) -> Markup:
    holm = any(known(row.get("p_holm")) for row in rows)
    failed = any(row.get("failed") for row in rows)
    scale = _scale([row for row in rows if row["variant"] != BASE])
    known_looks = looks(found)
    lines = []
    for row in rows:
        look = known_looks.get(row["variant"], _UNTRAINED)
        cells = [_name(row["variant"], look), _score(row), _delta(row, found.baseline), _picture(row, scale, look)]
        cells.append(_verdict(row, found.baseline))
        cells += [_cell(row.get("p_holm"), p_value(row.get("p_holm")))] if holm else []
        lines.append([*cells, _runs(row, failed)])
    heads = ["variant", "score", "delta", "interval", "verdict", *(["p_holm"] if holm else []), "runs"]
    caption = both("table", suite=suite, items=count(items), baseline=found.baseline)
    said = [both(f"head_{key}", baseline=found.baseline) for key in heads]
    return table(caption, said, lines, name=f"scores-{list(found.suites).index(suite)}", sortable=True, left=(3, 4))


def _costs(found: Found, rows: Sequence[dict[str, Any]]) -> Markup:
    keys = [key for key in _COSTS if any(known(row.get(key)) for row in rows)]
    known_looks = looks(found)
    lines = [
        [_name(row["variant"], known_looks.get(row["variant"], _UNTRAINED)),
         _cell(row.get("score"), number(row.get("score"))),
         *(_cell(row.get(key), _COSTS[key](row.get(key))) for key in keys)]
        for row in rows if row["variant"] != BASE
    ]  # fmt: skip
    said = [both(f"head_{key}") for key in ("variant", "score", *keys)]
    return table(both("costs_table"), said, lines, name="costs", sortable=True) if keys and lines else Markup("")


def _name(variant: str, look: Look) -> Markup:
    swatch = tag(
        "svg", shape(8, 8, look.kind), class_="lt swatch", viewBox="0 0 16 16", width=16, height=16, aria_hidden="true"
    )
    return joined(swatch, tag("span", variant))


def _score(row: dict[str, Any]) -> Markup:
    reach = interval(row, "score")
    said = tag("span", ends(*reach) if reach else "", class_="ends")
    return tag("td", tag("b", number(row.get("score"))), " ", said, data_sort=_sort(row.get("score")))


def _delta(row: dict[str, Any], baseline: str) -> Markup:
    if row["variant"] == baseline:
        return tag("td", both("baseline"), data_sort=0)
    reach = interval(row, "delta")
    said = tag("span", ends(*reach, sign=True) if reach else "", class_="ends")
    return tag("td", tag("b", signed(row.get("delta"))), " ", said, data_sort=_sort(row.get("delta")))


def _picture(row: dict[str, Any], scale: Scale, look: Look) -> Markup:
    """The difference and its interval beside zero; the numbers stand in the cell before, so it is hidden from ears."""
    parts = [line(scale(0), 0, scale(0), 40, "zero")]
    value = row.get("delta")
    reach = interval(row, "delta")
    if known(value) and scale.low <= value <= scale.high:  # type: ignore[operator]
        low, high = reach or (value, value)
        parts += [bar(scale(low), 20, scale(high), 20, look.kind), shape(scale(float(value or 0)), 20, look.kind, 0.7)]  # type: ignore[arg-type]
    drawn = tag("svg", parts, class_="lt forest", viewBox="0 0 170 40", width=170, height=40, aria_hidden="true")
    return tag("td", drawn, class_="left drawn", data_sort=_sort(value))


def _scale(rows: Sequence[dict[str, Any]]) -> Scale:
    """One scale for the intervals of all differences; that of the model before training would flatten the others."""
    found = [end for row in rows for end in interval(row, "delta") or ()]
    low, high = min([*found, -1e-6]), max([*found, 1e-6])
    air = (high - low) * 0.04
    return Scale(low=low - air, high=high + air, start=6, end=164)


def _verdict(row: dict[str, Any], baseline: str) -> Markup:
    word = row.get("verdict")
    if word not in _SIGNS:
        failed = not row.get("runs") and row.get("failed")
        return tag("td", both("failed") if failed else DASH, class_="left", data_sort="")
    # The model before training is no variant: that it is worse is what training is for.
    kind = f"left {_KEYS[word]}" if row["variant"] not in (BASE, baseline) else "left"
    return tag(
        "td",
        tag("span", _SIGNS[word], aria_hidden="true"),
        " ",
        both(f"word_{_KEYS[word]}"),
        class_=kind,
        data_sort=word,
    )


def _runs(row: dict[str, Any], failed: bool) -> Markup:
    said: Any = count(row.get("runs"))
    if failed and row.get("failed"):
        said = both("runs_failed", runs=count(row.get("runs")), failed=row["failed"])
    return tag("td", said, data_sort=_sort(row.get("runs")))


def _cell(value: Any, said: str) -> Markup:
    return tag("td", said, data_sort=_sort(value))


def _sort(value: Any) -> str:
    return f"{value:.9g}" if known(value) else ""
