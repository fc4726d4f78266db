# SPDX-License-Identifier: Apache-2.0
"""The ten instruction categories and how items are drawn from them.

A category is one function from a `random.Random` to an `Item`. The item's `key` names what must not be shared between
train, dev and test (a word, a fact, an equation, a pair of people ...); `item.split_of` sends each key to one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from item import Item, split_of
from knowing import classification, code, math, openqa, rewrite, translation
from reading import closedqa, extraction, generation, summarisation

CATEGORIES: dict[str, Callable[[Random], Item]] = {
    "translation": translation,
    "openqa": openqa,
    "rewrite": rewrite,
    "classification": classification,
    "summarisation": summarisation,
    "extraction": extraction,
    "code": code,
    "closedqa": closedqa,
    "generation": generation,
    "math": math,
}


def items(category: str, split: str, seed: int) -> Iterator[Item]:
    """Yield different items of one category and split without end; the same arguments give the same items.

    Raises:
        RuntimeError: the split has no further prompt.

    Example:
        >>> next(items("math", "test", 1)) == next(items("math", "test", 1))
        True
    """
    rng, seen = Random(f"{category}-{split}-{seed}"), set[str]()
    misses = 0
    while misses < 20000:
        item = CATEGORIES[category](rng)
        if split_of(item) == split and item.prompt not in seen:
            seen.add(item.prompt)
            misses = 0
            yield item
        misses += 1
    raise RuntimeError(f"instructions: {category}/{split} has only {len(seen)} different prompts; ask for fewer")
