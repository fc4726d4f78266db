# SPDX-License-Identifier: Apache-2.0
"""CoNLL: a word and its tags a line, a blank line between sentences.

Fields stand apart by tabs, or by spaces where a line has no tab. The first is the word, the last its tag; those between
are the columns `column_2`, `column_3` ... Lines that begin with `-DOCSTART-` and comments (`# ...` before a sentence,
of another number of fields than the words have) are passed over.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from luthier.core.errors import DataError
from luthier.data.faults import RowFault
from luthier.data.readers.lines import text_of_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from luthier.data.readers.lines import Numbered

DOCUMENT = "-DOCSTART-"
_SPACES = re.compile(r"[ \t]+")
HEAD = 1000  # lines that are looked at for the number of fields


def conll(path: Path, where: str) -> Iterator[Numbered]:
    """Yield sentences as rows of lists, numbered by their first line.

    A line with more or fewer fields than the first one is a fault of its sentence.

    Raises:
        DataError: The file has one field a line, or no words.
    """
    names = _names(path, where)
    sentence: list[list[str]] = []
    start, fault = 0, None
    for number, line in text_of_lines(path, where, blank=True):
        if isinstance(line, RowFault):
            start, fault = start or number, fault or line
            continue
        fields = _fields(line)
        if not fields or fields[0] == DOCUMENT:
            if start:
                yield start, fault or _row(names, sentence)
            sentence, start, fault = [], 0, None
        elif sentence or start or len(fields) == len(names) or not fields[0].startswith("#"):
            start = start or number
            if len(fields) != len(names):
                fault = fault or RowFault("not as many fields as the first line", f"{len(fields)} in line {number}")
            sentence.append(fields)
    if start:
        yield start, fault or _row(names, sentence)


def _row(names: list[str], sentence: list[list[str]]) -> dict[str, list[str]]:
    return {name: [fields[place] for fields in sentence] for place, name in enumerate(names)}


def _fields(line: str) -> list[str]:
    text = line.strip("\r\n")
    if not text.strip():
        return []
    if "\t" in text:
        return [field.strip() for field in text.rstrip("\t").split("\t")]
    return _SPACES.split(text.strip())


def _names(path: Path, where: str) -> list[str]:
    """Name the columns by the first line that has a word."""
    seen = 0
    for number, line in text_of_lines(path, where):
        seen = number
        if number > HEAD:
            break
        fields = [] if isinstance(line, RowFault) else _fields(line)
        if not fields or fields[0] == DOCUMENT or (fields[0].startswith("#") and len(fields[0]) == 1):
            continue
        if len(fields) == 1:
            allowed = "a word and its tag, with a tab or spaces between them"
            raise DataError(f"{where}:{number}", f"one field: {fields[0][:40]!r}", allowed, "is it a CoNLL file?")
        return ["tokens", *(f"column_{place}" for place in range(2, len(fields))), "tags"]
    raise DataError(where, f"no word in its first {seen:,} lines", "a word and its tag a line", "give a file with rows")
