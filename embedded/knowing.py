# SPDX-License-Identifier: Apache-2.0
"""Instruction categories that are answered from what the base knows: words, facts, sums, Python.

Each function takes a `random.Random` and returns one item. Nothing is worded like the pretraining corpus.
"""

from __future__ import annotations

from random import Random

import statements
import texts
import world
from item import Item, reply_item
from world import article

KIND_LIST = ", ".join(list(world.KIND_GROUPS)[:-1]) + " or " + list(world.KIND_GROUPS)[-1]

# What is asked about a subject, by relation; `{}` is the subject and `{a}` the subject with its article.
QUESTIONS = {
    "capital": [
        "What is the capital of {}?",
        "Which city is the capital of {}?",
        "Name the capital city of {}.",
        "Where does the government of {} sit?",
    ],
    "continent": [
        "Which continent is {} on?",
        "On what continent do you find {}?",
        "Name the continent to which {} belongs.",
        "In what part of the world is {}?",
    ],
    "language": [
        "Which language do people speak in {}?",
        "What is the main language in {}?",
        "Name the language you hear in {}.",
        "What do they speak in {}?",
    ],
    "colour": [
        "What colour does {} have?",
        "Which colour do you link with {}?",
        "Name the usual colour: {}",
        "If you paint {}, which colour do you need?",
    ],
    "sound": [
        "What sound does {a} make?",
        "Which noise does the {} make?",
        "How does {a} sound?",
        "Name the call of {a}.",
    ],
}

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


def translation(rng: Random) -> Item:
    """A word into Spanish or French; key: the English word."""
    word, language = rng.choice(world.WORDS), rng.choice(world.LANGUAGES)
    asked = rng.choice(
        [
            (f"Translate into {language}: {word.english}", ""),
            (f"Translate the word into {language}.", word.english),
            (f"How do you say {word.english} in {language}?", ""),
            (f"Which {language} word stands for {word.english}?", ""),
            (f"Give the {language} translation of {word.english}.", ""),
        ]
    )
    return reply_item("translation", word.english, word.into(language), asked)


def openqa(rng: Random) -> Item:
    """A question about a country, a colour or a sound; key: relation and subject."""
    relation = rng.choice(["capital", "continent", "language", "capital", "continent", "language", "colour", "sound"])
    if relation == "colour":
        subject, answer = rng.choice(list(world.COLOURS.items()))
    elif relation == "sound":
        subject, answer = rng.choice(list(world.SOUNDS.items()))
    else:
        country = rng.choice(world.COUNTRIES)
        subject, answer = country.name, getattr(country, relation)
    question = rng.choice(QUESTIONS[relation]).format(subject, a=article(subject))
    return reply_item("openqa", f"{relation} {subject}", answer, (question, ""))


def rewrite(rng: Random) -> Item:
    """A word as its opposite, past tense or plural; key: relation and word."""
    relation, table = rng.choice(
        [
            ("opposite", world.OPPOSITES),
            ("past tense", world.PAST_TENSES),
            ("plural", world.PLURALS),
        ]
    )
    word, form = rng.choice(list(table.items()))
    asked = rng.choice(
        {
            "opposite": [
                ("Replace the word by its opposite.", word),
                (f"Rewrite as the opposite: {word}", ""),
                (f"Turn {word} into its opposite.", ""),
                (f"Say the contrary of {word}.", ""),
                ("Which word says the contrary?", word),
            ],
            "past tense": [
                ("Put the verb into the past tense.", word),
                (f"Rewrite in the past tense: {word}", ""),
                (f"Change {word} to the past tense.", ""),
                (f"Give the past form of the verb {word}.", ""),
                ("What is this verb for yesterday?", word),
            ],
            "plural": [
                ("Put the noun into the plural.", word),
                (f"Rewrite in the plural: {word}", ""),
                (f"Change {word} to the plural.", ""),
                (f"Write {word} for more than one.", ""),
                ("What is this noun when there are many?", word),
            ],
        }[relation]
    )
    return reply_item("rewrite", f"{relation} {word}", form, asked)


def classification(rng: Random) -> Item:
    """The kind of a thing (key: the thing) or the mood of a review (key: the review)."""
    if rng.random() < 0.5:
        word, kind = rng.choice(list(world.KINDS.items()))
        asked = rng.choice(
            [
                (f"Classify the word as {KIND_LIST}.", word),
                (f"Which class fits {word} best: {KIND_LIST}?", ""),
                (f"Sort {word} into one class.", ""),
            ]
        )
        return reply_item("classification", word, kind, asked)
    review, mood = texts.draw_review(rng)
    question = rng.choice(
        [
            "Is this review positive or negative?",
            "Classify the review as positive or negative.",
            "Decide whether the writer is positive or negative.",
        ]
    )
    return reply_item("classification", review, mood, (question, review))


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
    asked = rng.choice(
        [
            (f"Write Python code to {request}.", ""),
            (f"In Python, {request}.", ""),
            ("Write one line of Python for this task.", f"{request[0].upper()}{request[1:]}."),
        ]
    )
    return reply_item("code", line, line, asked)


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
    asked = rng.choice(
        [
            (f"What is {left} {sign} {right}?", ""),
            (f"Compute {left} {sign} {right}.", ""),
            (f"How much is {left} {spoken} {right}?", ""),
            (f"Calculate the result: {left} {sign} {right}", ""),
            ("Solve the problem.", story),
            (story, ""),
        ]
    )
    return reply_item("math", ordered, str(result), asked)
