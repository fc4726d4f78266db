"""The ten instruction categories: translation, openqa, rewrite, classification, summarisation, extraction, code,
closedqa, generation, math.

A category is one function from a `random.Random` to an `Item`. The item's `key` names what must not be shared between
train, dev and test (a word, a fact, an equation, a pair of people ...); `split_of` sends each key to exactly one of
them. Nothing here is worded like the pretraining corpus.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import statements
import texts
import world
from world import article

SPLITS = {"train": range(7), "dev": range(7, 8), "test": range(8, 10)}

KIND_LIST = ", ".join(list(world.KIND_GROUPS)[:-1]) + " or " + list(world.KIND_GROUPS)[-1]

# How each line of `world.CODE` is asked for.
CODE_REQUESTS = [
    "print the sum of {a} and {b}",
    "print the product of {a} and {b}",
    "get the length of the list {xs}",
    "sort the list {xs}",
    "reverse the list {xs}",
    "get the first item in the list {xs}",
    "get the last item in the list {xs}",
    "get the item at position {a} in the list {xs}",
    "find the largest value in the list {xs}",
    "find the smallest value in the list {xs}",
    "add up all values in the list {xs}",
    "append {a} to the list {xs}",
    "assign {a} to the variable {x}",
    "increase the variable {x} by {a}",
    "print the variable {x}",
    "print each {x} in the list {xs}",
    "print each {x} from 0 up to but not including {a}",
    "define a function add that takes {x} and adds {a} to it",
    "define a function scale that takes {x} and multiplies it by {a}",
    "make {xs} an empty list",
]


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


def _item(category: str, key: str, output: str, asked: tuple[str, str]) -> Item:
    instruction, text = asked
    return Item(category=category, key=key, instruction=instruction, input=text, output=output, answer=output)


def translation(rng: Random) -> Item:
    """A word into Spanish or French; key: the English word."""
    word, language = rng.choice(world.WORDS), rng.choice(world.LANGUAGES)
    asked = rng.choice([
        (f"Translate into {language}: {word.english}", ""),
        (f"Translate the word into {language}.", word.english),
        (f"How do you say {word.english} in {language}?", ""),
        (f"Which {language} word stands for {word.english}?", ""),
        (f"Give the {language} translation of {word.english}.", ""),
    ])
    return _item("translation", word.english, word.into(language), asked)


def openqa(rng: Random) -> Item:
    """A question about a country, a colour or a sound; key: relation and subject."""
    relation = rng.choice(["capital", "continent", "language", "capital", "continent", "language", "colour", "sound"])
    if relation == "colour":
        subject, answer = rng.choice(list(world.COLOURS.items()))
        questions = [f"What colour does {subject} have?", f"Which colour do you link with {subject}?"]
    elif relation == "sound":
        subject, answer = rng.choice(list(world.SOUNDS.items()))
        questions = [f"What sound does {article(subject)} make?", f"Which noise does the {subject} make?"]
    else:
        country = rng.choice(world.COUNTRIES)
        subject, answer = country.name, getattr(country, relation)
        questions = {
            "capital": [
                f"What is the capital of {subject}?",
                f"Which city is the capital of {subject}?",
                f"Name the capital city of {subject}.",
            ],
            "continent": [f"Which continent is {subject} on?", f"On what continent do you find {subject}?"],
            "language": [
                f"Which language do people speak in {subject}?",
                f"What is the main language in {subject}?",
            ],
        }[relation]
    return _item("openqa", f"{relation} {subject}", answer, (rng.choice(questions), ""))


def rewrite(rng: Random) -> Item:
    """A word as its opposite, past tense or plural; key: relation and word."""
    relation, table = rng.choice([
        ("opposite", world.OPPOSITES),
        ("past tense", world.PAST_TENSES),
        ("plural", world.PLURALS),
    ])
    word, form = rng.choice(list(table.items()))
    asked = rng.choice({
        "opposite": [
            ("Replace the word by its opposite.", word),
            (f"Rewrite as the opposite: {word}", ""),
            (f"Turn {word} into its opposite.", ""),
            (f"Say the contrary of {word}.", ""),
        ],
        "past tense": [
            ("Put the verb into the past tense.", word),
            (f"Rewrite in the past tense: {word}", ""),
            (f"Change {word} to the past tense.", ""),
            (f"Give the past form of the verb {word}.", ""),
        ],
        "plural": [
            ("Put the noun into the plural.", word),
            (f"Rewrite in the plural: {word}", ""),
            (f"Change {word} to the plural.", ""),
            (f"Write {word} for more than one.", ""),
        ],
    }[relation])
    return _item("rewrite", f"{relation} {word}", form, asked)


def classification(rng: Random) -> Item:
    """The kind of a thing (key: the thing) or the mood of a review (key: the review)."""
    if rng.random() < 0.5:
        word, kind = rng.choice(list(world.KINDS.items()))
        asked = rng.choice([
            (f"Classify the word as {KIND_LIST}.", word),
            (f"Which class fits {word} best: {KIND_LIST}?", ""),
            (f"Sort {word} into one class.", ""),
        ])
        return _item("classification", word, kind, asked)
    review, mood = texts.draw_review(rng)
    question = rng.choice([
        "Is this review positive or negative?",
        "Classify the review as positive or negative.",
        "Decide whether the writer is positive or negative.",
    ])
    return _item("classification", review, mood, (question, review))


def summarisation(rng: Random) -> Item:
    """An event in one short sentence; key: who and which thing."""
    event = texts.draw_event(rng)
    question = rng.choice([
        "Summarise the text in one short sentence.",
        "Say in one short sentence what happened.",
        "Write a very short summary.",
    ])
    return _item("summarisation", f"{event.name} {event.thing}", event.summary, (question, texts.tell(rng, event)))


def extraction(rng: Random) -> Item:
    """One field of an event; key: who and which city."""
    event = texts.draw_event(rng)
    field = rng.choice(["name", "city", "day", "colour", "thing"])
    question = rng.choice({
        "name": ["Extract the person from the text.", "Which person does the text mention?"],
        "city": ["Extract the city from the text.", "Which city does the text mention?"],
        "day": ["Extract the day from the text.", "Which day of the week does the text mention?"],
        "colour": ["Extract the colour from the text.", "Which colour does the text mention?"],
        "thing": ["Extract the object from the text.", "Which object does the text mention?"],
    }[field])
    answer = getattr(event, field)
    return _item("extraction", f"{event.name} {event.city}", answer, (question, texts.tell(rng, event)))


def code(rng: Random) -> Item:
    """A Python one-liner; key: the code."""
    (_, line), request = rng.choice(list(zip(world.CODE, CODE_REQUESTS, strict=True)))
    slots = {
        "xs": rng.choice(world.LIST_NAMES),
        "x": rng.choice(world.VARIABLE_NAMES),
        "a": rng.randrange(21),
        "b": rng.randrange(21),
    }
    line, request = line.format(**slots), request.format(**slots)
    asked = rng.choice([
        (f"Write Python code to {request}.", ""),
        (f"In Python, {request}.", ""),
        ("Write one line of Python for this task.", f"{request[0].upper()}{request[1:]}."),
    ])
    return _item("code", line, line, asked)


def closedqa(rng: Random) -> Item:
    """A question on a text about two people; key: the two names."""
    group = texts.people(rng, 2)
    person = rng.choice(group)
    question, answer = rng.choice([
        (f"Where does {person.name} live?", person.city),
        (f"In which city does {person.name} live?", person.city),
        (f"What does {person.name} do for a living?", person.job),
        (f"What work does {person.name} do?", person.job),
        (f"Which person lives in {person.city}?", person.name),
        (f"Which person works as a {person.job}?", person.name),
    ])
    text = " ".join(texts.describe(rng, one) for one in group)
    return _item("closedqa", " ".join(sorted(one.name for one in group)), answer, (question, text))


def generation(rng: Random) -> Item:
    """A sentence that must contain two given words and end in a full stop; key: the two words."""
    subject, place = rng.choice(world.SUBJECTS), rng.choice(world.PLACES)
    instruction = rng.choice([
        f"Write a sentence about {article(subject)} and {article(place)}.",
        f"Make up a short sentence that has both {subject} and {place} in it.",
        f"Tell me in one sentence what {article(subject)} does at the {place}.",
    ])
    return Item(
        category="generation",
        key=f"{subject} {place}",
        instruction=instruction,
        output=texts.present_sentence(rng, subject, place),
        check="contains_all",
        answer=[f" {subject} ", f" {place}."],
    )


def math(rng: Random) -> Item:
    """A sum, bare or told as a story; key: the equation, whatever the order of its operands."""
    left, sign, right, result = statements.sum_values(rng)
    ordered = f"{left}{sign}{right}" if sign == "-" else f"{min(left, right)}{sign}{max(left, right)}"
    name, things = rng.choice(world.PEOPLE), rng.choice(world.COUNTABLES)
    spoken = {"+": "plus", "-": "minus", "x": "times"}[sign]
    story = {
        "+": f"{name} has {left} {things} and buys {right} more. How many {things} does {name} have?",
        "-": f"{name} has {left} {things} and loses {right}. How many {things} does {name} still have?",
        "x": f"{name} has {left} bags with {right} {things} in each bag. How many {things} does {name} have?",
    }[sign]
    asked = rng.choice([
        (f"What is {left} {sign} {right}?", ""),
        (f"Compute {left} {sign} {right}.", ""),
        (f"How much is {left} {spoken} {right}?", ""),
        (f"Calculate the result: {left} {sign} {right}", ""),
        ("Solve the problem.", story),
        (story, ""),
    ])
    return _item("math", ordered, str(result), asked)


CATEGORIES: dict[str, Callable[[Random], Item]] = {
    function.__name__: function
    for function in (
        translation,
        openqa,
        rewrite,
        classification,
        summarisation,
        extraction,
        code,
        closedqa,
        generation,
        math,
    )
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
