# SPDX-License-Identifier: Apache-2.0
"""Rows for models that read: labels, tags, answers in a text, texts that belong together; and short translations.

Each function takes a `random.Random` and returns the key that decides the row's split, and the row. All of them are
told in words of the micro-world, short enough that a model of a few thousand parameters learns them in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from random import Random

import texts
import world
from item import Item, split_of

Row = dict[str, object]
MOST_WORDS = 3  # words of a translation at most


def classify(rng: Random) -> tuple[str, Row]:
    """A review and its mood; key: the review."""
    text, mood = texts.draw_review(rng)
    return text, {"text": text, "label": mood}


def tags(rng: Random) -> tuple[str, Row]:
    """A sentence or two with people, places and things; key: the sentence."""
    event = texts.draw_event(rng)
    words = re.findall(r"\w+|[^\w\s]", texts.tell(rng, event))
    named = {event.name: "B-PER", event.city: "B-LOC", event.colour: "B-OBJ"}
    found = ["I-OBJ" if word == event.thing else named.get(word, "O") for word in words]
    return " ".join(words), {"tokens": words, "tags": found}


def questions(rng: Random) -> tuple[str, Row]:
    """A text about one person, and a question that a part of it answers; key: who, which city, which job."""
    person = texts.people(rng, 1)[0]
    lines = [texts.describe(rng, person), *rng.sample(texts.FILLERS, rng.randint(0, 2))]
    rng.shuffle(lines)
    context = " ".join(lines)
    question, answer = rng.choice(
        [
            (f"Where does {person.name} live?", person.city),
            (f"What is the job of {person.name}?", person.job),
            (f"Who is the {person.job}?", person.name),
        ]
    )
    place = re.search(rf"\b{answer}\b", context)
    assert place is not None
    spans = {"text": [answer], "answer_start": [place.start()]}
    return " ".join(person), {"question": question, "context": context, "answers": spans}


def pairs(rng: Random) -> tuple[str, Row]:
    """An event in short and the same event told; key: the event."""
    event = texts.draw_event(rng)
    short = f"{event.name}, {event.thing}, {event.city}"
    return " ".join(event), {"anchor": short, "positive": texts.tell(rng, event)}


def similar(rng: Random) -> tuple[str, Row]:
    """Two events, and the share of name, thing, city and day that they have in common; key: both."""
    one, other = texts.draw_event(rng), texts.draw_event(rng)
    kept = rng.sample(["name", "thing", "city", "day"], rng.randint(0, 4))
    other = other._replace(**{field: getattr(one, field) for field in kept})
    first, second = (f"On {e.day} {e.name} {e.verb} a {e.thing} in {e.city}." for e in (one, other))
    same = sum(getattr(one, field) == getattr(other, field) for field in ("name", "thing", "city", "day"))
    return f"{first} {second}", {"sentence1": first, "sentence2": second, "score": same / 4}


def translate(rng: Random) -> tuple[str, Row]:
    """One to three English words and their Spanish ones; key: the words."""
    chosen = rng.sample(world.WORDS, rng.randint(1, MOST_WORDS))
    source = " ".join(word.english for word in chosen)
    return source, {"source": source, "target": " ".join(word.spanish for word in chosen)}


MAKERS: dict[str, Callable[[Random], tuple[str, Row]]] = {
    "classify": classify,
    "tags": tags,
    "questions": questions,
    "pairs": pairs,
    "similar": similar,
    "translate": translate,
}
COUNTS = {
    "classify": (400, 120),
    "tags": (140, 45),
    "questions": (340, 50),
    "pairs": (260, 80),
    "similar": (180, 60),
    "translate": (400, 120),
}


def task_rows(name: str, split: str, seed: int) -> list[Row]:
    """Return the rows of one set, all different, each in the split that its key belongs to."""
    found: dict[str, Row] = {}
    for key, row in _drawn(MAKERS[name], Random(f"{name}-{split}-{seed}")):
        if split_of(Item(category=name, key=key, instruction="", output="")) == split:
            found.setdefault(key, row)
        if len(found) == COUNTS[name][split == "test"]:
            return list(found.values())
    raise AssertionError("drawing does not end")


def _drawn(maker: Callable[[Random], tuple[str, Row]], rng: Random) -> Iterator[tuple[str, Row]]:
    while True:
        yield maker(rng)
