# SPDX-License-Identifier: Apache-2.0
"""JSON Lines, and text with one document a line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from luthier.data.faults import RowFault, kind_of
from luthier.data.readers.encoding import WINDOW, check_head, guess, opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Numbered = tuple[int, dict[str, Any] | RowFault]


def json_lines(path: Path, where: str) -> Iterator[Numbered]:
    """Yield the rows of a file with one JSON value a line; a broken line is a fault of that row alone."""
    for number, text in text_of_lines(path, where):
        if isinstance(text, RowFault):
            yield number, text
            continue
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            at = min(error.pos, len(text.rstrip("\r\n"))) + 1  # not on the line break
            yield number, RowFault("not JSON", f"{error.msg} at column {at}")
        except RecursionError:
            yield number, RowFault("nested too deeply to be read")
        else:
            yield number, as_row(value)


def text_lines(path: Path, where: str) -> Iterator[Numbered]:
    """Yield the lines of a text file as rows with a ``text`` column."""
    for number, text in text_of_lines(path, where):
        yield number, text if isinstance(text, RowFault) else {"text": text.rstrip("\r\n")}


def as_row(value: Any) -> dict[str, Any] | RowFault:
    """Give a bare list of messages, or a bare string, the column name that it would have in an object."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list):
        return {"messages": value}
    if isinstance(value, str):
        return {"text": value}
    return RowFault("a row is not an object", kind_of(value))


def text_of_lines(path: Path, where: str, *, blank: bool = False) -> Iterator[tuple[int, str | RowFault]]:
    """Yield each line, with its number from 1; blank ones only where they are asked for."""
    with opened(path) as file:
        skip = check_head(where, file.read(WINDOW))
        file.seek(skip)
        offset = skip
        for number, line in enumerate(file, 1):
            if blank or not line.isspace():
                try:
                    yield number, line.decode("utf-8")
                except UnicodeDecodeError as error:
                    at = offset + error.start
                    yield number, RowFault("not UTF-8", f"byte {at:,} of the file; looks like {guess(line)}")
            offset += len(line)
