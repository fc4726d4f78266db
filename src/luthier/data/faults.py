# SPDX-License-Identifier: Apache-2.0
"""What is wrong with one row."""

from __future__ import annotations


class RowFault(Exception):
    """One row cannot be used. It is refused, counted and named in the ledger; the other rows go on.

    Args:
        reason: What rows of this kind have in common; the ledger counts by it, so it names no values.
        detail: What is special about this row.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason} ({detail})" if detail else reason)


def kind_of(value: object) -> str:
    """Say in a reader's words what a JSON value is.

    Example:
        >>> kind_of(["a"]), kind_of(None), kind_of(2.5)
        ('a list', 'null', 'a number')
    """
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
