# SPDX-License-Identifier: Apache-2.0
"""Bytes to text: UTF-8, and a useful word where it is something else."""

from __future__ import annotations

import codecs
import gzip
from typing import TYPE_CHECKING, BinaryIO, cast

from luthier.core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

#: Longest first: the UTF-32 mark begins with the UTF-16 one.
MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
MAGIC = (
    (b"PAR1", "a Parquet file", "rename it to .parquet"),
    (b"ARROW1", "an Arrow file", "save it as Parquet or JSONL"),
    (b"\x1f\x8b", "a gzip file", "rename it to end in .gz"),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch it with: git lfs pull"),
)
WINDOW = 4096  # bytes around a bad byte that the guess looks at


def opened(path: Path) -> BinaryIO:
    """Open a file for reading bytes, through gzip where it ends in ``.gz``."""
    return cast("BinaryIO", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def check_head(where: str, head: bytes) -> int:
    """Look at the first bytes of a text file.

    Returns:
        The length of a UTF-8 byte order mark to skip: 0 or 3.

    Raises:
        DataError: They are not the beginning of a UTF-8 text.
    """
    if head.startswith(codecs.BOM_UTF8):
        return 3
    for magic, what, fix in MAGIC:
        if head.startswith(magic):
            raise DataError(where, f"is {what}", "the suffix tells how a file is read", fix)
    for mark, encoding in MARKS:
        if head.startswith(mark):
            raise not_utf8(where, 0, encoding, "byte order mark")
    zeros = head[:WINDOW].find(b"\0")
    if zeros >= 0:  # no text holds a zero byte; in UTF-16 every other byte of ASCII text is one
        raise not_utf8(where, zeros, guess(head), "zero byte")
    return 0


def not_utf8(where: str, offset: int, encoding: str, what: str = "no UTF-8") -> DataError:
    """Make the error of a file in another encoding."""
    fix = f"convert it: iconv -f {encoding} -t UTF-8 FILE > NEW" if encoding != "binary" else "is it the right file?"
    return DataError(
        where, f"{what} at byte {offset:,}; looks like {encoding}", "UTF-8, with or without byte order mark", fix
    )


def guess(window: bytes) -> str:
    """Guess the encoding of bytes that are not UTF-8, by the shares of what they decode to.

    Example:
        >>> guess("你好，今天天气很好".encode("gbk")), guess("naïve café".encode("latin-1"))
        ('GB18030', 'WINDOWS-1252')
    """
    if b"\0" in window:
        odd, even = window[1::2].count(0), window[::2].count(0)
        if max(odd, even) < len(window) // 8:
            return "binary"
        return "UTF-16LE" if odd > even else "UTF-16BE"
    text = window.decode("gb18030", errors="replace")
    foreign = [char for char in text if char > "\x7f"]
    # common Chinese characters lie in the two rows of GB2312; Latin-1 text read as GBK gives rare ones, or none
    common = sum(
        "\u4e00" <= char <= "\u9fff" or "\u3000" <= char <= "\u303f" or "\uff00" <= char <= "\uffef" for char in foreign
    )
    pairs = sum(len(run) for run in _runs(window)) >= 2 * max(1, len(list(_runs(window))))
    return "GB18030" if foreign and pairs and common >= 0.8 * len(foreign) else "WINDOWS-1252"


def _runs(window: bytes) -> list[bytes]:
    """Runs of bytes above 127: single ones in Western text, long ones in Chinese."""
    runs, start = [], -1
    for place, byte in enumerate(window + b"\0"):
        if byte > 127 and start < 0:
            start = place
        elif byte <= 127 and start >= 0:
            runs.append(window[start:place])
            start = -1
    return runs
