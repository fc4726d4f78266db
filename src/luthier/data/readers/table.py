# SPDX-License-Identifier: Apache-2.0
"""CSV, TSV and Parquet."""

from __future__ import annotations

import csv
import io
import sys
from itertools import chain
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError
from luthier.data.faults import RowFault
from luthier.data.readers.encoding import WINDOW, check_head, guess, not_utf8, opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from luthier.data.readers.lines import Numbered

BATCH = 512  # rows of a Parquet file held as Python objects


def delimited(path: Path, where: str, *, header: bool = True, quoted: bool = True) -> Iterator[Numbered]:
    """Yield the rows of a CSV or TSV file below its header, numbered from 1.

    A row with more or fewer fields than the first one is a fault.

    Args:
        path: The file.
        where: What messages call it.
        header: Whether its first line names the columns; else they are called "0", "1" ...
        quoted: Whether a field in quotes may hold tabs, commas and line breaks; else quotes are characters like others.

    Raises:
        DataError: The file is no UTF-8, or a quote does not close.
    """
    with opened(path) as file:
        head = file.read(WINDOW)
        skip = check_head(where, head)
        file.seek(skip)
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        reader = _reader(text, _delimiter(path, head[skip:]), quoted)
        try:
            first: list[str] = next(reader, [])
            names = [name.strip() for name in first] if header else [str(place) for place in range(len(first))]
            what = "the header" if header else "the first row"
            for number, fields in enumerate(filter(None, reader if header else chain([first], reader)), 1):
                if len(fields) == len(names):
                    yield number, dict(zip(names, fields, strict=True))
                else:
                    yield number, RowFault(f"not as many fields as {what}", f"{len(fields)} for {len(names)}")
        except UnicodeDecodeError as error:
            raise _bad_byte(path, where, error) from None
        except csv.Error as error:
            raise DataError(
                f"{where}, line {reader.line_num}", str(error), "CSV with quoted fields", "mend the line"
            ) from None


def is_quoted(path: Path) -> bool:
    """Whether a TSV file quotes fields as CSV does: read so, all its rows have equally many fields.

    Most TSV files quote nothing, and a sentence in them may begin with a quotation mark. Reads the whole file.
    """
    with opened(path) as file:
        head = file.read(WINDOW)
        if b'"' not in head and not any(b'"' in line for line in file):
            return False
        file.seek(0)
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
        try:
            return len({len(fields) for fields in _reader(text, _delimiter(path, head), True) if fields}) == 1
        except csv.Error:
            return False


def _reader(text: io.TextIOWrapper, delimiter: str, quoted: bool) -> Any:
    # the default limit of 131,072 characters a field is below one long document; the setting is global to the process
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    if quoted:
        return csv.reader(text, delimiter=delimiter, strict=True)
    return csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE)


def parquet(path: Path, where: str) -> Iterator[Numbered]:
    """Yield the rows of a Parquet file, numbered from 1."""
    import pyarrow as pa
    from pyarrow import parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            number = 0
            for batch in file.iter_batches(batch_size=BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DataError(
            where, f"cannot be read as Parquet ({' '.join(str(error).split())})", fix="write it anew"
        ) from None


def _delimiter(path: Path, head: bytes) -> str:
    """Tab for ``.tsv``; for ``.csv`` a comma, unless the header has none and has a semicolon or a tab."""
    if ".tsv" in path.suffixes:
        return "\t"
    header = head.split(b"\n", 1)[0]
    return next((char.decode() for char in (b",", b";", b"\t") if char in header), ",")


def _bad_byte(path: Path, where: str, error: UnicodeDecodeError) -> DataError:
    """Find the byte again: the text layer reports places in its own buffer, not in the file."""
    with opened(path) as file:
        offset = 0
        for line in file:
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as found:
                return not_utf8(where, offset + found.start, guess(line))
            offset += len(line)
    return not_utf8(where, error.start, "binary")
