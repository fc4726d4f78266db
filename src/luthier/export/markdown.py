# SPDX-License-Identifier: Apache-2.0
"""Names that others chose, put into Markdown: no name ends a line, a table's cell, a code span or a heading.

Names of folders, files and labels may hold anything: line breaks, `|`, backticks, HTML, bytes that are no text.
"""

from __future__ import annotations

import re
import unicodedata

_PLAIN = re.compile(r"\w[\w .,:;+=()/-]*", re.ASCII)
_MEANT = re.compile(r"([\\`*_{}\[\]<>#|~&$!])")
# Persian, Hindi and emoji are written with zero-width (non-)joiners; other invisible characters hide or turn text.
_JOINERS = "\u200c\u200d"


def flat(text: str, most: int = 200) -> str:
    r"""Text on one line: no control characters, no turned direction, no halves of characters, no length without end.

    Example:
        >>> flat("a\nb\u202ec")
        'a b c'
    """
    kept = "".join(c if c in _JOINERS or unicodedata.category(c)[0] != "C" else " " for c in text)
    line = " ".join(kept.split())
    return line if len(line) <= most else f"{line[: most - 4]} ..."


def prose(text: str) -> str:
    r"""Text that Markdown shows as it is.

    Example:
        >>> print(prose("run_1"), prose("<b>*"))
        run_1 \<b\>\*
    """
    line = flat(text)
    return line if _PLAIN.fullmatch(line) and "_ " not in f"{line} " else _MEANT.sub(r"\\\1", line)


def code(text: str) -> str:
    """Text in a code span.

    Example:
        >>> print(code("a"), code("a`b"))
        `a` ``a`b``
    """
    line = flat(text) or " "
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def table(rows: list[list[str]]) -> str:
    r"""A table: a row of heads, then cells that are Markdown already.

    Example:
        >>> print(table([["a", "b"], ["1", "`x|y`"]]))
        | a | b |
        |---|---|
        | 1 | `x\|y` |
    """
    lines = [" | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in row) for row in rows]
    return "\n".join([f"| {lines[0]} |", f"|{'---|' * len(rows[0])}", *(f"| {line} |" for line in lines[1:])])
