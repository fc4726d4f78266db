# SPDX-License-Identifier: Apache-2.0
"""The rows of a suite: any file that training can read, and texts that are made from their columns."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from luthier.core.errors import DataError
from luthier.data.faults import RowFault, kind_of
from luthier.data.source import locate
from luthier.recipe.schema import Section, Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from luthier.evaluate.items import Item

Row = tuple[str, "dict[str, Any]"]  # what messages call it, and its columns
FILE = "file"  # a column that every row has unless it has one of that name: its file's name without the ending


def _source(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


OneSource = Annotated[Source, BeforeValidator(_source)]


class SuiteKeys(Section):
    """What every kind of suite can be told."""

    name: str | None = None
    """What results are filed under; default the name of the YAML file, or of the rows' file and the kind."""


class RowKeys(SuiteKeys):
    """What every kind of suite can be told whose items are rows of columns."""

    data: OneSource
    """A file or folder as in `data.eval` of a recipe: a path, or `{path: ..., split: ..., columns: {...}}`."""
    rows: str | None = None
    """The key of a JSON object that holds the rows, where a file is one: `examples` in BIG-Bench Hard's."""
    category: str = ""
    """For scores by category: a text with columns in braces, as in `{subject}`; `{file}` is the file's name."""
    group: str = ""
    """Likewise: items of the same group are one unit of error."""


@dataclass(frozen=True, kw_only=True)
class Items:
    """What a suite asks.

    Attributes:
        every: In the rows' order.
        left: Whether rows were left out because so few were wanted.
        refused: What was wrong with rows that are left out -> how many; only for rows as training reads them.
        metric: What is reported first, where the keys leave that to what was read.
        falls: Whether that falls as models get better.
    """

    every: tuple[Item, ...]
    left: bool = False
    refused: Mapping[str, int] = field(default_factory=dict)
    metric: str | None = None
    falls: bool = False


def read_rows(keys: RowKeys, where: str, limit: int | None = None) -> tuple[list[Row], bool]:
    """Read rows with their columns.

    Args:
        keys: `data` and `rows`.
        where: The suite, for messages.
        limit: Only the first so many.

    Returns:
        The rows, and whether some were left out because of the limit.

    Raises:
        DataError: There is no such file, a row cannot be read, or there is none.
    """
    source = keys.data
    if source.format != "auto":
        raise DataError(f"{where}, data.format", f"received {source.format!r}", "no format: columns are named", "leave")
    most = min((count for count in (limit, source.max_rows) if count is not None), default=None)
    rows: list[Row] = []
    left = False
    for label, number, row in _objects(source, keys.rows) if keys.rows else _parts(source):
        if most is not None and len(rows) >= most:
            left = limit is not None and most == limit
            break
        place = f"{label}:{number}"
        if isinstance(row, RowFault):
            raise DataError(place, str(row), "rows that can be read: none is left out of a suite", "mend the file")
        named = {own: row[str(given)] for own, given in source.columns.items() if str(given) in row}
        rows.append((place, {FILE: _stem(label), **row, **named}))
    if not rows:
        raise DataError(where, "no items", "at least one row")
    return rows, left


def _parts(source: Source) -> Iterator[tuple[str, int, Any]]:
    for part in locate(source, "eval", lambda _: None):
        for number, row in part.rows():
            yield part.label, number, row


def _objects(source: Source, key: str) -> Iterator[tuple[str, int, Any]]:
    """Rows of files that each are one JSON object, such as {"canary": ..., "examples": [...]}."""
    path = Path(source.path).expanduser()
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    for file in files:
        try:
            tree = json.loads(file.read_bytes())
        except OSError as error:
            raise DataError(source.path, f"cannot be read ({error})", "a JSON file, or a folder of them") from None
        except ValueError as error:
            raise DataError(str(file), f"not JSON ({error})", "one JSON object", "mend the file") from None
        inside = tree.get(key) if isinstance(tree, dict) else None
        if not isinstance(inside, list):
            keys = ", ".join(tree) if isinstance(tree, dict) else kind_of(tree)
            raise DataError(str(file), f"no list {key!r} (it has {keys})", "the key that holds the rows", "correct it")
        for number, row in enumerate(inside, 1):
            yield str(file), number, row if isinstance(row, dict) else RowFault("a row is not an object", kind_of(row))


def _stem(label: str) -> str:
    return Path(label).name.split(".")[0]


def fill(template: str, row: Mapping[str, Any], where: str) -> str:
    r"""Put columns into a text: plain names in braces only, as a template comes from a file.

    Raises:
        DataError: There is no such column, its value is no text or number, or the braces are broken.

    Example:
        >>> fill("Q: {question}\nA:", {"question": "1+1?"}, "row 1")
        'Q: 1+1?\nA:'
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise DataError(
            where, f"the text {template!r} is broken ({error})", "columns in braces", "write {{ for a brace"
        ) from None
    told = []
    for before, name, spec, conversion in parts:
        told.append(before)
        if name is not None:
            if name not in row or spec or conversion:
                known = ", ".join(str(column) for column in row if column != FILE)
                raise DataError(
                    where, f"no column {name!r} for {template!r}", f"its columns: {known}", "correct the suite"
                )
            told.append(text_in(row[name], name, where))
    return "".join(told)


def text_in(value: Any, name: str, where: str) -> str:
    """A column's value as text: a text, or a number as JSON writes it.

    Raises:
        DataError: It is neither.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return json.dumps(value)
    raise DataError(where, f"{name} is {kind_of(value)}", "a text or a number", "name another column")


def marks(keys: RowKeys, row: Mapping[str, Any], where: str) -> dict[str, str]:
    """The category and group of a row's item."""
    return {name: fill(getattr(keys, name), row, where) for name in ("category", "group")}
