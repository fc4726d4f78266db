# SPDX-License-Identifier: Apache-2.0
"""Write the instruction sets: which rows of which category go into which JSON Lines file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from random import Random

from instructions import CATEGORIES, items
from item import Item
from tasks import COUNTS, task_rows

# Every file has its own seed; the test seed was never used to choose anything.
SEEDS = {"train": 101, "dev": 202, "test": 30303, "math": 404, "preference": 505, "tasks": 606}

# Categories whose reply is a word or a number, so that it can be said tersely or in a sentence.
SHORT = ("translation", "openqa", "rewrite", "classification", "extraction", "closedqa", "math")
VERBOSE = ("It is {}.", "The answer is {}.")
PREFERENCE_TRAIN = {name: 143 for name in SHORT} | {"translation": 142}
PREFERENCE_TEST = {name: 42 if name == "math" else 43 for name in SHORT}

Row = dict[str, object]


def take(category: str, split: str, seed: int, count: int, taken: set[str] | None = None) -> list[Item]:
    """Return `count` different items whose prompts are not in `taken`."""
    fresh = (item for item in items(category, split, seed) if item.prompt not in (taken or ()))
    return list(itertools.islice(fresh, count))


def instruction_row(item: Item, *, checked: bool) -> Row:
    """Return an alpaca row, with the check where replies are to be scored."""
    row: Row = {"instruction": item.instruction, "input": item.input, "output": item.output, "category": item.category}
    return row | {"check": item.check, "answer": item.answer} if checked else row


def _mixed(split: str, seed: int, per_category: int) -> list[Item]:
    chosen = [item for name in CATEGORIES for item in take(name, split, seed, per_category)]
    Random(f"order-{split}-{seed}").shuffle(chosen)
    return chosen


def _preference_items(split: str, counts: dict[str, int], taken: set[str]) -> list[Item]:
    chosen = [item for name, count in counts.items() for item in take(name, split, SEEDS["preference"], count, taken)]
    Random(f"order-preference-{split}").shuffle(chosen)
    return chosen


def _preference_rows(chosen: list[Item], *, checked: bool) -> list[Row]:
    rows: list[Row] = []
    for index, item in enumerate(chosen):
        verbose = VERBOSE[index % len(VERBOSE)].format(item.output)
        row: Row = {"prompt": item.prompt, "chosen": item.output, "rejected": verbose, "category": item.category}
        rows.append(row | {"check": item.check, "answer": item.answer} if checked else row)
    return rows


def _both_styles(chosen: list[Item]) -> list[Row]:
    """Return alpaca rows of which every second one answers in a sentence."""
    rows = [instruction_row(item, checked=False) for item in chosen]
    for index, (row, item) in enumerate(zip(rows, chosen, strict=True)):
        if index % 2:
            row["output"] = VERBOSE[index // 2 % len(VERBOSE)].format(item.output)
    return rows


def build_sets() -> dict[str, list[Row]]:
    """Return all rows by file name, without the suffix."""
    train = _mixed("train", SEEDS["train"], 400)
    dev, test = _mixed("dev", SEEDS["dev"], 30), _mixed("test", SEEDS["test"], 60)
    seen, tested = {item.prompt for item in train}, {item.prompt for item in test}
    preference_train = _preference_items("train", PREFERENCE_TRAIN, set())
    preference_test = _preference_items("test", PREFERENCE_TEST, tested)
    plain = {"train": train, "math_train": take("math", "train", SEEDS["math"], 800, seen)}
    scored = {"dev": dev, "test": test, "math_test": take("math", "test", SEEDS["math"], 240, tested)}
    rows = {name: [instruction_row(item, checked=False) for item in chosen] for name, chosen in plain.items()}
    rows |= {name: [instruction_row(item, checked=True) for item in chosen] for name, chosen in scored.items()}
    rows["preference_sft"] = _both_styles(preference_train)
    rows["preference_train"] = _preference_rows(preference_train, checked=False)
    rows["preference_test"] = _preference_rows(preference_test, checked=True)
    rows |= {
        f"{name}_{split}": task_rows(name, split, SEEDS["tasks"]) for name in COUNTS for split in ("train", "test")
    }
    return rows


def prompt_of(row: Row) -> str:
    """Return the text that the user says, for any row of any set."""
    if "prompt" in row:
        return str(row["prompt"])
    return f"{row['instruction']}\n{row['input']}" if row["input"] else str(row["instruction"])


def overlap(train: Iterable[Row], test: Iterable[Row]) -> int:
    """Return how many test prompts occur verbatim among the train prompts."""
    seen = {prompt_of(row) for row in train}
    return sum(prompt_of(row) in seen for row in test)


def write_sets(folder: Path) -> None:
    """Write every set as `folder/NAME.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in build_sets().items():
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
