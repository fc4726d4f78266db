# SPDX-License-Identifier: Apache-2.0
"""Scores by category as a heat map of numbers, and what training changed in each category."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.web.fill import BASE
from luthier.web.forms import DASH, ends, known, number, signed
from luthier.web.markup import Markup, both, joined, tag
from luthier.web.sections._pieces import grid, note

if TYPE_CHECKING:
    from luthier.web.gather import Found


def categories(found: Found) -> Markup:
    """A table each suite that has categories: the darker, the higher; every cell says its number."""
    made = []
    for place, (suite, by_category) in enumerate(found.categories.items()):
        present = {variant for cells in by_category.values() for variant in cells}
        columns = [v for v in [BASE, *found.variants] if v in present]
        made.append(
            grid(
                both("heat", suite=suite),
                ("head_variant", columns),
                ("head_category", list(by_category)),
                lambda variant, name, cells=by_category: _shaded(cells[name].get(variant)),  # type: ignore[misc]
                name=f"heat-{place}",
                shown=_named,
            )
        )
    return joined(made, note("heat_note")) if made else Markup("")


def _shaded(entry: dict[str, Any] | None) -> Markup:
    value = (entry or {}).get("value")
    if not known(value) or entry is None:
        return tag("td", DASH, class_="heat")
    share = min(max(float(value or 0), 0.0), 1.0)
    reach = tag("span", ends(entry.get("low"), entry.get("high"), 2), class_="ends")
    return tag("td", number(value, 2), " ", reach, class_="heat", style=f"--share:{share:.3f}")


def forgetting(found: Found) -> Markup:
    """Before and after in each category, and the difference: losses are what a mean score hides."""
    table_of = {variant: cells for variant, cells in found.forgetting.items() if variant != BASE and cells}
    if not table_of:
        return Markup("")
    names = list(dict.fromkeys(name for cells in table_of.values() for name in cells))
    before = {name: next((c[name].get("before") for c in table_of.values() if name in c), None) for name in names}
    lost = [
        (variant, name) for variant, cells in table_of.items() for name, cell in cells.items()
        if known(cell.get("high")) and cell["high"] < 0
    ]  # fmt: skip
    said = both("lost_some", names=", ".join(f"{v}: {n}" for v, n in lost[:12])) if lost else both("lost_none")

    def cell(variant: str, name: str) -> Markup:
        if variant == BASE:
            return tag("td", number(before[name], 2), class_="change")
        return _change(table_of[variant].get(name))

    made = grid(
        both("forgetting_table"), ("head_variant", [BASE, *table_of]), ("head_category", names), cell,
        name="forgetting", shown=_named,
    )  # fmt: skip
    return joined(tag("p", said), made, note("forgetting_note"))


def _named(name: str) -> Markup | str:
    """A category or a variant; what the items leave unnamed is said so, and the base is what was before training."""
    return both("before_training") if name == BASE else name or both("no_category")


def _change(cell: dict[str, Any] | None) -> Markup:
    if cell is None or not known(cell.get("delta")):
        return tag("td", DASH, class_="change")
    delta, low, high = float(cell["delta"]), cell.get("low"), cell.get("high")
    clear = known(low) and known(high) and (low > 0 or high < 0)  # type: ignore[operator]
    sign = ("▲" if delta > 0 else "▼") if clear else "≈"
    kind = f"change {'up' if delta > 0 else 'down'}{' clear' if clear else ''}"
    glyph = tag("span", sign, aria_hidden="true")
    said = tag("span", glyph, " ", number(cell.get("after"), 2), " ", tag("b", signed(delta, 2)), class_="after")
    reach = tag("span", ends(low, high, 2, sign=True), class_="ends")
    return tag("td", said, " ", reach, class_=kind, style=f"--share:{min(abs(delta), 1.0):.3f}")
