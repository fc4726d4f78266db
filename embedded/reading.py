# SPDX-License-Identifier: Apache-2.0
"""Instruction categories that are answered from the prompt itself: summaries, extraction, closed questions, sentences.

Each function takes a `random.Random` and returns one item. Nothing is worded like the pretraining corpus.
"""

from __future__ import annotations

from random import Random

import texts
import world
from item import Item, reply_item
from world import article


def summarisation(rng: Random) -> Item:
    """An event in one short sentence; key: who and which thing."""
    event = texts.draw_event(rng)
    question = rng.choice(
        [
            "Summarise the text in one short sentence.",
            "Say in one short sentence what happened.",
            "Write a very short summary.",
        ]
    )
    return reply_item("summarisation", f"{event.name} {event.thing}", event.summary, (question, texts.tell(rng, event)))


def extraction(rng: Random) -> Item:
    """The name, the city or the job in a text about one person; key: who and which city."""
    person = texts.people(rng, 1)[0]
    field = rng.choice(["name", "city", "job"])
    question = rng.choice(
        {
            "name": ["Extract the name from the text.", "Which name does the text contain?"],
            "city": ["Extract the city from the text.", "Which city does the text contain?"],
            "job": ["Extract the job from the text.", "Which job does the text contain?"],
        }[field]
    )
    lines = [texts.describe(rng, person), rng.choice(texts.FILLERS)]
    rng.shuffle(lines)
    answer = getattr(person, field)
    return reply_item("extraction", f"{person.name} {person.city}", answer, (question, " ".join(lines)))


def closedqa(rng: Random) -> Item:
    """A question on a text about one or two people; key: the names and the cities."""
    group = texts.people(rng, rng.choice([1, 2]))
    person = rng.choice(group)
    question, answer = rng.choice(
        [
            (f"Where does {person.name} live?", person.city),
            (f"In which city does {person.name} live?", person.city),
            (f"What does {person.name} do for a living?", person.job),
            (f"What work does {person.name} do?", person.job),
            (f"Which person lives in {person.city}?", person.name),
            (f"Which person works as a {person.job}?", person.name),
        ]
    )
    text = " ".join(texts.describe(rng, one) for one in group)
    return reply_item("closedqa", " ".join(sorted(f"{one.name} {one.city}" for one in group)), answer, (question, text))


def generation(rng: Random) -> Item:
    """A sentence that must contain two given words and end in a full stop; key: the two words."""
    subject, place = rng.choice(world.SUBJECTS), rng.choice(world.PLACES)
    instruction = rng.choice(
        [
            f"Write a sentence with these words: {subject}, {place}",
            f"Make up a short sentence that has both {subject} and {place} in it.",
            f"What does {article(subject)} do at the {place}? Tell me in one sentence.",
        ]
    )
    return Item(
        category="generation",
        key=f"{subject} {place}",
        instruction=instruction,
        output=texts.present_sentence(rng, subject, place),
        check="contains_all",
        answer=[f" {subject} ", f" {place}."],
    )
