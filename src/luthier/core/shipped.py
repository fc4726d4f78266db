# SPDX-License-Identifier: Apache-2.0
"""The shipped sets of rows: `embedded:train` is a file that comes with Luthier."""

from __future__ import annotations

from pathlib import Path

from luthier.core.errors import RecipeError, did_you_mean

PREFIX = "embedded:"


def sets_folder() -> Path:
    """Where the shipped training rows and suites lie."""
    return Path(__file__).parents[1] / "models" / "embedded" / "sets"  # by path: importing models imports torch


def shipped_set(path: str) -> Path | None:
    """Find the file that `embedded:NAME` means; None for any other path.

    Raises:
        RecipeError: There is no shipped set of this name.

    Example:
        >>> shipped_set("embedded:train").name, shipped_set("train.jsonl")
        ('train.jsonl', None)
    """
    if not path.startswith(PREFIX):
        return None
    known = {file.stem: file for file in sets_folder().glob("*.jsonl")}
    name = path.removeprefix(PREFIX)
    if name not in known:
        raise RecipeError(f"data {path!r}", "no such shipped set", did_you_mean(name, known))
    return known[name]
