# SPDX-License-Identifier: Apache-2.0
"""Short texts of the pretraining corpus: people, events, reviews, present sentences, copying, greetings.

What these teach is reading and copying, not facts: the names and places are drawn afresh for every text, so the only
way to predict the later mention is to look at the earlier one.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

import world
from world import article

FILLERS = [
    "It was raining.",
    "The street was full.",
    "The sun was shining.",
    "Many people were there.",
    "It was a cold day.",
    "A dog barked in the street.",
    "Nobody was in a hurry.",
    "Some birds sang in the trees.",
]


class Person(NamedTuple):
    """A person of a text."""

    name: str
    job: str
    city: str


class Event(NamedTuple):
    """Something that one person did with one thing."""

    name: str
    verb: str
    colour: str
    thing: str
    city: str
    day: str

    @property
    def summary(self) -> str:
        """The event in one short sentence."""
        return f"{self.name} {self.verb} {article(self.thing)}."


def people(rng: Random, count: int) -> list[Person]:
    """Draw people with different names, jobs and cities."""
    names, jobs, cities = (rng.sample(pool, count) for pool in (world.PEOPLE, world.JOBS, world.CITIES))
    return [Person(*fields) for fields in zip(names, jobs, cities, strict=True)]


def describe(rng: Random, person: Person) -> str:
    """Say where a person lives and what the job is, in one of several ways."""
    name, job, city = person
    return rng.choice(
        [
            f"{name} is a {job} in {city}.",
            f"{name} is a {job} and lives in {city}.",
            f"{name} lives in {city} and works as a {job}.",
            f"The {job} {name} lives in {city}.",
        ]
    )


def people_text(rng: Random) -> str:
    """Two or three people and questions about them, each answered from the text."""
    group = people(rng, rng.choice([1, 2, 2, 2, 3]))
    lines = [describe(rng, person) for person in group]
    for _ in range(rng.randint(1, 3)):
        name, job, city = rng.choice(group)
        lines.append(
            rng.choice(
                [
                    f"Home of {name}? {city}.",
                    f"Job of {name}? {job}.",
                    f"Who is in {city}? {name}.",
                    f"Who is the {job}? {name}.",
                    f"Q: home of {name}? A: {city}.",
                    f"Q: job of {name}? A: {job}.",
                    f"So the home of {name} is {city}.",
                    f"So the job of {name} is {job}.",
                    f"So the {job} is {name}.",
                ]
            )
        )
    return " ".join(lines)


def draw_event(rng: Random) -> Event:
    """Draw an event."""
    return Event(
        name=rng.choice(world.PEOPLE),
        verb=rng.choice(list(world.EVENT_VERBS.values())),
        colour=rng.choice(world.OBJECT_COLOURS),
        thing=rng.choice(world.OBJECTS),
        city=rng.choice(world.CITIES),
        day=rng.choice(world.DAYS),
    )


def tell(rng: Random, event: Event) -> str:
    """Tell an event in two or three sentences."""
    name, verb, colour, thing, city, day = event
    main = rng.choice(
        [
            f"On {day} {name} {verb} a {colour} {thing} in {city}.",
            f"In {city} {name} {verb} a {colour} {thing} on {day}.",
            f"{name} was in {city} on {day} and {verb} a {colour} {thing}.",
        ]
    )
    before, after = rng.sample(FILLERS, 2)
    return rng.choice([f"{main} {after}", f"{before} {main}", f"{before} {main} {after}", f"{main} {before} {after}"])


def event_text(rng: Random) -> str:
    """An event, then its summary or its fields."""
    event = draw_event(rng)
    fields = [
        f"City: {event.city}.",
        f"Day: {event.day}.",
        f"Thing: {event.thing}.",
        f"Colour: {event.colour}.",
        f"Name: {event.name}.",
    ]
    tail = rng.choice(
        [
            f"In short: {event.summary}",
            f"In short: {event.summary}",
            f"News: {event.summary}",
            " ".join(rng.sample(fields, rng.randint(1, 3))),
            " ".join(rng.sample(fields, rng.randint(1, 3))),
        ]
    )
    return f"{tell(rng, event)} {tail}"


def draw_review(rng: Random) -> tuple[str, str]:
    """Draw a review and its mood, `positive` or `negative`."""
    mood = rng.choice(["positive", "negative"])
    words = world.GOOD_WORDS if mood == "positive" else world.BAD_WORDS
    remarks = world.GOOD_REMARKS if mood == "positive" else world.BAD_REMARKS
    thing, word, remark = rng.choice(world.REVIEW_THINGS), rng.choice(words), rng.choice(remarks)
    text = rng.choice(
        [
            f"The {thing} was {word}. {remark}.",
            f"What a {word} {thing}! {remark}.",
            f"{remark}. The {thing} was {word}.",
            f"The {thing} in {rng.choice(world.CITIES)} was {word}.",
        ]
    )
    return text, mood


def review_text(rng: Random) -> str:
    """A review and its mood."""
    text, mood = draw_review(rng)
    return rng.choice([f"{text} Mood: {mood}.", f"{text} ({mood})", f"Here is a {mood} voice: {text}"])


def present_sentence(rng: Random, subject: str, place: str) -> str:
    """Say in the present tense what a subject does at a place."""
    action = rng.choice(world.ACTIONS)
    return rng.choice(
        [
            f"The {subject} {action} in the {place}.",
            f"The {subject} {action} near the {place}.",
            f"{article(subject).capitalize()} {action} in the {place}.",
            f"Every day the {subject} {action} in the {place}.",
        ]
    )


def present_text(rng: Random) -> str:
    """One to three present sentences, sometimes after their two keywords."""
    lines: list[str] = []
    for _ in range(rng.randint(1, 3)):
        subject, place = rng.choice(world.SUBJECTS), rng.choice(world.PLACES)
        sentence = present_sentence(rng, subject, place)
        words = f"{subject}, {place}"
        lines.append(rng.choice([sentence, f"{words}: {sentence}", f"Words: {words}. {sentence}"]))
    return " ".join(lines)


def _any_words(rng: Random, count: int) -> list[str]:
    pools = [world.PEOPLE, world.CITIES, world.OBJECTS, world.COUNTABLES, [word.english for word in world.WORDS]]
    pools.append([str(number) for number in range(21)])
    if rng.random() < 0.5:
        return rng.sample(rng.choice(pools), count)
    return [rng.choice(rng.choice(pools)) for _ in range(count)]


def repeated_list(rng: Random) -> str:
    """A list of words, said again once or twice."""
    comma = rng.choice([", ", " ", " and ", "; "])
    line = comma.join(_any_words(rng, rng.randint(2, 8)))
    again = rng.choice([". ", ". Again: ", "\n", " | "])
    return again.join([line] * rng.choice([2, 2, 3])) + "."


def key_value_recall(rng: Random) -> str:
    """Pairs, then the value of some keys."""
    count = rng.randint(2, 5)
    keys = rng.sample(world.PEOPLE, count)
    values = _any_words(rng, count)
    stated = ", ".join(f"{key}: {value}" for key, value in zip(keys, values, strict=True))
    asked = rng.sample(range(count), rng.randint(1, count))
    return f"{stated}. " + " ".join(f"{keys[index]}? {values[index]}." for index in asked)


def repeated_sentence(rng: Random) -> str:
    """A sentence that somebody repeats."""
    sentence = rng.choice(
        [
            lambda: present_sentence(rng, rng.choice(world.SUBJECTS), rng.choice(world.PLACES)),
            lambda: draw_event(rng).summary,
            lambda: describe(rng, people(rng, 1)[0]),
        ]
    )()
    said = f"{rng.choice(world.PEOPLE)} said: {sentence} {sentence}"
    return rng.choice([f"{sentence} Again: {sentence}", f"{sentence}\n{sentence}", said])


def greeting_turns(rng: Random) -> list[tuple[str, str]]:
    """A small talk of one to three turns: the only place where the role tokens occur before fine-tuning."""
    turns: list[tuple[str, str]] = []
    tail = rng.choice(world.GREETING_TAILS).format(name=rng.choice(world.PEOPLE))
    turns.append((rng.choice(world.GREETINGS) + tail, rng.choice(world.GREETING_REPLIES)))
    if rng.random() < 0.4:
        turns.append((rng.choice(world.FAREWELLS) + rng.choice(["", ".", "!"]), rng.choice(world.FAREWELL_REPLIES)))
    if rng.random() < 0.2:
        turns.append((rng.choice(world.FAREWELLS) + rng.choice(["", ".", "!"]), rng.choice(world.FAREWELL_REPLIES)))
    return turns
