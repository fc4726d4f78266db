# SPDX-License-Identifier: Apache-2.0
"""One big JSON array, read element by element; and SQuAD's nested object, article by article.

``json.load`` of a 120 MB file takes 550 MB of memory; this takes 3 MB at 96 MB a second.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError
from luthier.data.faults import RowFault, kind_of
from luthier.data.readers.encoding import WINDOW, check_head, guess, not_utf8, opened
from luthier.data.readers.lines import as_row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from luthier.data.readers.lines import Numbered

CHUNK = 1 << 20  # bytes read at a time
_BLACK = re.compile(r"[^ \t\r\n]")
_TITLED = rb'(?:\s*"[^"]*"\s*:\s*"[^"]*"\s*,)*\s*'  # "version": "1.1", "title": "..."
_SQUAD = re.compile(rb"\s*\{" + _TITLED + rb'"data"\s*:\s*\[\s*\{' + _TITLED + rb'"paragraphs"\s*:\s*\[')


class _Text:
    """The text of a file from a moving position on."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self.file, self.where = file, where
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text, self.at, self.line, self.ended = "", 0, 1, False
        self.bytes = check_head(where, file.read(WINDOW))
        file.seek(self.bytes)

    def more(self) -> None:
        """Drop what was read and append a chunk as long as what is held at least: so the work stays linear."""
        self.line += self.text.count("\n", 0, self.at)
        data = self.file.read(max(CHUNK, len(self.text) - self.at))
        self.ended = not data
        try:
            self.text = self.text[self.at :] + self.decoder.decode(data, final=self.ended)
        except UnicodeDecodeError as error:
            near = data[max(0, error.start - 32) : error.start + WINDOW]
            raise not_utf8(self.where, self.bytes + error.start, guess(near)) from None
        self.at = 0
        self.bytes += len(data)

    def next(self) -> str:
        """Skip white space and return the character there, or nothing at the end."""
        while True:
            if found := _BLACK.search(self.text, self.at):
                self.at = found.start()
                return found.group()
            self.at = len(self.text)
            if self.ended:
                return ""
            self.more()

    def value(self, number: int) -> Any:
        """Read one JSON value."""
        scan = json.JSONDecoder().raw_decode
        while True:
            try:
                value, end = scan(self.text, self.at)
            except json.JSONDecodeError as error:
                # near the end of what is held it may just be cut off: `tru`, `"abc`, `{"a"`
                cut = error.pos > len(self.text) - 16 or error.msg.startswith("Unterminated string")
                if self.ended or not cut:
                    raise self.broken(error.pos, f"{error.msg} in row {number}") from None
            else:
                if end < len(self.text) or self.ended:  # at the edge, `12` may go on as `123`
                    self.at = end
                    return value
            self.more()

    def pass_over(self, char: str) -> None:
        """Go behind a character that must stand next.

        Raises:
            DataError: Another one does.
        """
        if self.next() != char:
            raise self.broken(self.at, f"expecting {char!r}")
        self.at += 1

    def broken(self, at: int, what: str) -> DataError:
        """Make the error of a file that is no JSON from here on."""
        line = self.line + self.text.count("\n", 0, at)
        column = at - self.text.rfind("\n", 0, at)
        end = "the file ends too early: " if self.ended and at >= len(self.text.rstrip()) else ""
        return DataError(
            f"{self.where}, line {line}, column {column}",
            f"{end}{what[:1].lower()}{what[1:]}",
            "a JSON array of rows, or one JSON object a line (there a broken line costs that row alone)",
            "mend the file at this place",
        )


def json_array(path: Path, where: str) -> Iterator[Numbered]:
    """Yield the elements of a JSON array, numbered from 1.

    Raises:
        DataError: The text stops being JSON; the rest of the array cannot be found again after that.
    """
    with opened(path) as file:
        text = _Text(file, where)
        for number, value in _elements(text):
            yield number, as_row(value)
        if text.next():
            raise text.broken(text.at, "there is more after the array")


def is_squad(head: bytes) -> bool:
    """Whether a file that begins so is SQuAD's nested JSON: an object whose `data` is a list of articles."""
    return bool(_SQUAD.match(head))


def squad(path: Path, where: str) -> Iterator[Numbered]:
    """Yield the questions of SQuAD's nested JSON, numbered from 1, each with its context.

    Raises:
        DataError: The text stops being JSON.
    """
    number = 0
    with opened(path) as file:
        text = _Text(file, where)
        text.pass_over("{")
        while text.next() != "}":
            key = text.value(number)
            text.next()
            text.pass_over(":")
            text.next()
            if key != "data":
                text.value(number)
            else:
                for place, article in _elements(text):
                    for row in _questions(article, f"article {place}"):
                        number += 1
                        yield number, row
            if text.next() == ",":
                text.at += 1


def _elements(text: _Text) -> Iterator[tuple[int, Any]]:
    """Yield the elements of the array that stands next, numbered from 1, and pass over its end."""
    text.pass_over("[")
    number = 0
    while (char := text.next()) != "]":
        if number:
            if char != ",":
                raise text.broken(text.at, f"expecting ',' after row {number}")
            text.at += 1
            text.next()
        number += 1
        yield number, text.value(number)
    text.at += 1


def _questions(article: Any, where: str) -> Iterator[dict[str, Any] | RowFault]:
    for paragraph in _list(article, "paragraphs"):
        for row in _list(paragraph, "qas"):
            if not isinstance(row, dict) or not isinstance(paragraph, dict):
                yield RowFault("not paragraphs of questions, as in SQuAD", f"{kind_of(row)} in {where}")
                continue
            answers = [] if row.get("is_impossible") is True else row.get("answers", [])
            yield row | {"context": paragraph.get("context"), "answers": answers}


def _list(value: Any, key: str) -> list[Any]:
    """What stands in a list; something that is no such list stands for itself, and is refused later."""
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, list) else [None]
