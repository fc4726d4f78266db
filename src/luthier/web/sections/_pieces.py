# SPDX-License-Identifier: Apache-2.0
"""What several sections are made of: tables that scroll and say what they are, figures with their numbers, choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.web.gather import KINDS
from luthier.web.markup import Markup, both, joined, tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from luthier.web.gather import Found

WIDE, NARROW = 900, 340  # pixels: the page shows the picture that fits, so letters keep their size on a telephone


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a variant is drawn everywhere: colour and shape of its method, and a pattern of its own within it."""

    kind: str
    dash: int
    group: str


def looks(found: Found) -> dict[str, Look]:
    """A look for every variant: groups differ in colour, or variants where there is one group only."""
    groups = found.groups()
    names = list(dict.fromkeys(groups.values()))
    if len(names) < 2:
        return {
            variant: Look(kind=f"g{number % KINDS}", dash=number // KINDS % 4, group=groups[variant])
            for number, variant in enumerate(groups)
        }
    seen: dict[str, int] = {}
    made = {}
    for variant, group in groups.items():
        made[variant] = Look(kind=f"g{names.index(group) % KINDS}", dash=seen.get(group, 0) % 4, group=group)
        seen[group] = seen.get(group, 0) + 1
    return made


def table(
    caption: Any,
    heads: Sequence[Any],
    rows: Iterable[Sequence[Any]],
    *,
    name: str,
    sortable: bool = False,
    left: Sequence[int] = (),
) -> Markup:
    """A table whose first column names the rows. Cells that are Markup beginning with `<td` or `<th` stay as they are.

    Args:
        caption: What it shows.
        heads: Of the columns.
        rows: Cells; the first of each names its row.
        name: Makes its id.
        sortable: Whether a script may make buttons of its heads.
        left: Columns that hold words, which begin at the left; numbers end at the right.
    """
    said = tag("span", caption, class_="cap")
    top = tag("tr", [tag("th", h, scope="col", class_="left" if n in left else None) for n, h in enumerate(heads)])
    body = [tag("tr", tag("th", row[0], scope="row"), [_cell(cell) for cell in row[1:]]) for row in rows]
    inside = tag(
        "table", tag("caption", said, id=f"cap-{name}"), tag("thead", top), tag("tbody", body),
        class_="sortable" if sortable else None, id=f"table-{name}",
    )  # fmt: skip
    return tag("div", inside, class_="scroll", role="region", aria_labelledby=f"cap-{name}", tabindex=0)


def grid(
    caption: Any,
    down: tuple[str, Sequence[str]],
    across: tuple[str, Sequence[str]],
    cell: Callable[[str, str], Any],
    *,
    name: str,
    shown: Callable[[str], Any] = str,
) -> Markup:
    """A table of two lists of names, the longer of which goes down: the other fits the page and the paper.

    Args:
        caption: What it shows.
        down: The word for the first list (a key of the dictionary) and its names.
        across: Likewise.
        cell: A name of `down` and one of `across` -> the cell.
        name: Makes its id.
        shown: A name -> how it is written.
    """
    if len(across[1]) > len(down[1]):
        return grid(caption, across, down, lambda row, column: cell(column, row), name=name, shown=shown)
    heads = [both(down[0]), *(shown(column) for column in across[1])]
    rows = [[shown(row), *(cell(row, column) for column in across[1])] for row in down[1]]
    return table(caption, heads, rows, name=name)


def _cell(cell: Any) -> Markup:
    return cell if isinstance(cell, Markup) and cell.startswith("<td") else tag("td", cell)


def figure(name: str, caption: Markup, draw: Callable[[int, str], Markup], numbers: Markup | None = None) -> Markup:
    """A picture in two widths, the words that stand for it, and its numbers as a table below.

    Args:
        name: Makes its ids.
        caption: What it shows.
        draw: Width in pixels and the id of the words -> the picture.
        numbers: The same as a table.
    """
    label = f"fig-{name}"
    pictures = [tag("div", draw(width, label), class_=kind) for width, kind in ((WIDE, "wide"), (NARROW, "narrow"))]
    more = tag("details", tag("summary", both("numbers")), numbers) if numbers else None
    return tag("figure", pictures, tag("figcaption", caption, id=label), more)


def choice(name: str, question: Markup, options: Sequence[tuple[str, Markup, Markup]]) -> Markup:
    """Several views, one of which is shown: buttons that need no script.

    Args:
        name: Of the choice.
        question: What is chosen.
        options: Key, words, and the view.
    """
    if len(options) == 1:
        return options[0][2]
    buttons = [
        tag("span", tag("input", type="radio", name=name, id=f"{name}-{place}", checked=place == 1), " ",
            tag("label", words, for_=f"{name}-{place}"))
        for place, (_, words, _) in enumerate(options, 1)
    ]  # fmt: skip
    views = [tag("div", view, class_=f"view v{place}") for place, (_, _, view) in enumerate(options, 1)]
    return tag("div", tag("fieldset", tag("legend", question), buttons, class_="pick"), views, class_="choice")


def note(key: str, **values: Any) -> Markup:
    """A small remark."""
    return tag("p", both(key, **values), class_="note")


def block(*parts: Any) -> Markup:
    """Several parts, or nothing."""
    return joined(*parts)
