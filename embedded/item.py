# SPDX-License-Identifier: Apache-2.0
"""One instruction with its reply, and the split that it belongs to."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

SPLITS = {"train": range(7), "dev": range(7, 8), "test": range(8, 10)}


@dataclass(frozen=True, kw_only=True)
class Item:
    """One instruction with its reply and how to check a reply."""

    category: str
    key: str
    instruction: str
    output: str
    input: str = ""
    check: str = "exact"
    answer: str | list[str] = ""

    @property
    def prompt(self) -> str:
        """The instruction and, on a new line, its input."""
        return f"{self.instruction}\n{self.input}" if self.input else self.instruction


def split_of(item: Item) -> str:
    """Return the one split that an item's key belongs to: 70 % train, 10 % dev, 20 % test.

    Example:
        >>> split_of(Item(category="math", key="3+4", instruction="3 + 4?", output="7"))
        'train'
    """
    bucket = zlib.crc32(f"{item.category}/{item.key}".encode()) % 10
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


def reply_item(category: str, key: str, output: str, asked: tuple[str, str]) -> Item:
    """Return an item that is right exactly if the reply equals `output`; `asked` is `(instruction, input)`."""
    instruction, text = asked
    return Item(category=category, key=key, instruction=instruction, input=text, output=output, answer=output)
