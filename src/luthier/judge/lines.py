# SPDX-License-Identifier: Apache-2.0
"""JSON Lines of a bench: read with the line in every error, written whole or not at all."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError, RunFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

Row = dict[str, Any]


def read_lines(path: Path) -> Iterator[tuple[str, Row]]:
    """Each row of a file with its place, `FILE, line N`; empty lines are passed over.

    Raises:
        DataError: The file is not there or is no text, or a line is no JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(str(path), "no such file", "a JSON Lines file", "check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "a JSON Lines file in UTF-8") from None
    for number, line in enumerate(
        text.split("\n"), 1
    ):  # splitlines would also break at U+2028, which JSON leaves as is
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(where, f"is not JSON ({error})", "one JSON object a line", "mend the line") from None
        if not isinstance(row, dict):
            raise DataError(where, f"holds {type(row).__name__}", "one JSON object a line", "mend the line")
        yield where, row


def column(row: Row, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """What stands in a column that must be there.

    Raises:
        DataError: It is missing or of another type.
    """
    found = row.get(name)
    if not isinstance(found, kind) or isinstance(found, bool):
        kinds = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        received = f"column {name!r} holds {type(found).__name__}" if name in row else f"columns {', '.join(row)}"
        raise DataError(where, received, f"{name}: {kinds}", "mend the line")
    return found


def texts(found: Any, name: str, where: str) -> tuple[str, ...]:
    """A list of strings with at least one in it.

    Raises:
        DataError: It is something else.
    """
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise DataError(where, f"{name} is no list of texts", f"{name}: a list of texts", "mend the line")
    return tuple(found)


def write_whole(path: Path, text: str) -> None:
    """Write a file beside its place, flush it to the disk, and put it there in one step.

    Raises:
        RunFailed: The disk is full, or may not be written.
    """
    writing = path.with_name(f".{path.name}.writing-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        writing.replace(path)
    except OSError as error:
        writing.unlink(missing_ok=True)
        raise RunFailed(
            str(path), f"cannot be written ({error})", fix="free some space, or name another --output"
        ) from None


def write_lines(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON Lines, the whole file at once."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
