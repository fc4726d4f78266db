# SPDX-License-Identifier: Apache-2.0
"""The pretraining corpus (version 2): documents drawn without end from one seed.

A document is a few statements of one or several sorts. Half of the documents begin with a space and a fifth put each
statement on its own line, so that a word is known both after a space and at the start of a line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import statements
import texts
from tokenizer import ASSISTANT, END, USER

# Share of each sort of document. Chosen, not tuned: the order of magnitude follows the trial's corpus.
GREETING_SHARE = 0.03
LONG_SHARE = 0.06
MIX: dict[str, float] = {
    "facts": 0.26,
    "quiz": 0.20,
    "recall": 0.09,
    "lists": 0.05,
    "sentences": 0.02,
    "people": 0.10,
    "events": 0.08,
    "reviews": 0.03,
    "present": 0.06,
    "sums": 0.07,
    "problems": 0.03,
    "code": 0.06,
}


def _several(statement: statements.Statement, least: int, most: int) -> Callable[[Random], list[str]]:
    return lambda rng: [statement(rng) for _ in range(rng.randint(least, most))]


def _facts(rng: Random) -> list[str]:
    return [rng.choice(statements.FACTS)(rng) for _ in range(rng.randint(1, 5))]


DOCUMENTS: dict[str, Callable[[Random], list[str]]] = {
    "facts": _facts,
    "quiz": _several(statements.quiz, 2, 6),
    "recall": _several(texts.key_value_recall, 1, 2),
    "lists": _several(texts.repeated_list, 1, 1),
    "sentences": _several(texts.repeated_sentence, 1, 2),
    "people": _several(texts.people_text, 1, 2),
    "events": _several(texts.event_text, 1, 2),
    "reviews": _several(texts.review_text, 1, 3),
    "present": _several(texts.present_text, 1, 2),
    "sums": _several(statements.arithmetic, 2, 6),
    "problems": _several(statements.word_problem, 1, 3),
    "code": _several(statements.code, 1, 4),
}


def greeting(rng: Random) -> str:
    """Small talk in the chat form, without the opening and the closing `<|end|>`."""
    turns = texts.greeting_turns(rng)
    return END.join(f"{USER} {question}{ASSISTANT} {reply}" for question, reply in turns)


def plain_document(rng: Random) -> str:
    """One document of plain text."""
    if rng.random() < LONG_SHARE:
        kinds = rng.choices(list(MIX), list(MIX.values()), k=rng.randint(3, 6))
    else:
        kinds = rng.choices(list(MIX), list(MIX.values()))
    lines = [line for kind in kinds for line in DOCUMENTS[kind](rng)]
    separator = "\n" if kinds == ["code"] or rng.random() < 0.2 else " "
    return rng.choice(["", " "]) + separator.join(lines)


def documents(seed: int, part: int = 0) -> Iterator[str]:
    """Yield documents without end; the same `(seed, part)` gives the same documents.

    Example:
        >>> next(documents(1)) == next(documents(1))
        True
    """
    rng = Random(f"corpus-{seed}-{part}")
    while True:
        yield greeting(rng) if rng.random() < GREETING_SHARE else plain_document(rng)
