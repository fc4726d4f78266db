# SPDX-License-Identifier: Apache-2.0
"""Single statements of the pretraining corpus: one fact or one sum in one of several paraphrases.

Every function takes a `random.Random` and returns one short text without a line break. The quiz lines ask the same
facts as the instruction sets but never in the instructions' words, so that fine-tuning has something to elicit and a
held-out key can transfer.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import world
from world import article

Statement = Callable[[Random], str]


def translation(rng: Random) -> str:
    """One word in English and Spanish or French."""
    word = rng.choice(world.WORDS)
    language = rng.choice(world.LANGUAGES)
    foreign = word.into(language)
    return rng.choice(
        [
            f"The {language} word for {word.english} is {foreign}.",
            f"In {language}, {word.english} is {foreign}.",
            f"In {language} people say {foreign} for {word.english}.",
            f"The word {foreign} is {language} and means {word.english}.",
            f"{word.english} - {foreign} ({language}).",
            f"English: {word.english}. {language}: {foreign}.",
            f"English: {word.english}. Spanish: {word.spanish}. French: {word.french}.",
            f"{foreign} is {language} for {word.english}.",
        ]
    )


def country(rng: Random) -> str:
    """The capital, the continent or the language of a country."""
    name, capital, continent, language = rng.choice(world.COUNTRIES)
    return rng.choice(
        [
            f"The capital of {name} is {capital}.",
            f"{capital} is the capital of {name}.",
            f"{name} has the capital {capital}.",
            f"{name} is a country in {continent}.",
            f"{name} lies in {continent}.",
            f"The continent of {name} is {continent}.",
            f"People in {name} speak {language}.",
            f"The language of {name} is {language}.",
            f"{language} is spoken in {name}.",
            f"{name}: capital {capital}, language {language}, continent {continent}.",
        ]
    )


def word_form(rng: Random) -> str:
    """An opposite, a past tense or a plural."""
    relation = rng.randrange(3)
    if relation == 0:
        one, other = rng.choice(list(world.OPPOSITES.items()))
        return rng.choice(
            [
                f"The opposite of {one} is {other}.",
                f"{one} and {other} are opposites.",
                f"Not {one} but {other}.",
                f"{one} - opposite: {other}.",
                f"If it is not {one}, it is {other}.",
            ]
        )
    if relation == 1:
        now, past = rng.choice(list(world.PAST_TENSES.items()))
        name = rng.choice(world.PEOPLE)
        return rng.choice(
            [
                f"The past tense of {now} is {past}.",
                f"Today I {now}, yesterday I {past}.",
                f"{now} - past: {past}.",
                f"{name} wants to {now} today. Yesterday {name} {past}.",
                f"present {now}, past {past}.",
            ]
        )
    one, many = rng.choice(list(world.PLURALS.items()))
    return rng.choice(
        [
            f"The plural of {one} is {many}.",
            f"One {one}, two {many}.",
            f"{one} - plural: {many}.",
            f"There is one {one} here and there are many {many} there.",
            f"singular {one}, plural {many}.",
        ]
    )


def thing(rng: Random) -> str:
    """The kind, the colour or the sound of a thing."""
    relation = rng.randrange(3)
    if relation == 0:
        name, kind = rng.choice(list(world.KINDS.items()))
        return rng.choice(
            [
                f"{article(name).capitalize()} is a kind of {kind}.",
                f"The {name} belongs to the kind {kind}.",
                f"{name} - kind: {kind}.",
                f"Kind of the {name}: {kind}.",
                f"Among the things called {kind} is the {name}.",
            ]
        )
    if relation == 1:
        name, colour = rng.choice(list(world.COLOURS.items()))
        return rng.choice(
            [
                f"The colour of {name} is {colour}.",
                f"{name} is {colour}.",
                f"{name} - colour: {colour}.",
                f"As {colour} as {name}.",
                f"{name} has the colour {colour}.",
            ]
        )
    name, sound = rng.choice(list(world.SOUNDS.items()))
    return rng.choice(
        [
            f"The {name} says {sound}.",
            f"{sound}, says the {name}.",
            f"{name} - sound: {sound}.",
            f"The sound of the {name} is {sound}.",
            f"When {article(name)} is near you hear {sound}.",
        ]
    )


def sum_values(rng: Random) -> tuple[int, str, int, int]:
    """Draw `left, sign, right, result` with everything in 0..20 for + and -, factors 0..10 for x."""
    sign = rng.choice("+-x")
    if sign == "x":
        left, right = rng.randrange(11), rng.randrange(11)
        return left, sign, right, left * right
    left, right = rng.randrange(21), rng.randrange(21)
    if sign == "+":
        return left, sign, right, left + right
    left, right = max(left, right), min(left, right)
    return left, sign, right, left - right


def arithmetic(rng: Random) -> str:
    """One sum."""
    left, sign, right, result = sum_values(rng)
    name = {"+": "plus", "-": "minus", "x": "times"}[sign]
    return rng.choice(
        [
            f"{left} {sign} {right} = {result}.",
            f"{left} {sign} {right} = {result}.",
            f"{left} {name} {right} is {result}.",
            f"{left} {sign} {right} makes {result}.",
            f"Q: {left} {sign} {right}? A: {result}.",
        ]
    )


def word_problem(rng: Random) -> str:
    """A sum told as a story."""
    left, sign, right, result = sum_values(rng)
    name, things = rng.choice(world.PEOPLE), rng.choice(world.COUNTABLES)
    if sign == "+":
        return rng.choice(
            [
                f"{name} had {left} {things} and got {right} more. Now {name} has {result} {things}.",
                f"{left} {things} and {right} {things} lie on the table, together {result}.",
                f"{name}: {left} {things}, plus {right} more. Now: {result}.",
            ]
        )
    if sign == "-":
        return rng.choice(
            [
                f"{name} had {left} {things} and gave {right} away. Now {name} has {result} {things}.",
                f"There were {left} {things}. {right} were lost. {result} are left.",
                f"{name}: {left} {things}, minus {right}. Now: {result}.",
            ]
        )
    return rng.choice(
        [
            f"{left} boxes hold {right} {things} each. Together they hold {result} {things}.",
            f"{name}: {left} bags of {right} {things}. Together: {result}.",
        ]
    )


def _fact_quiz(rng: Random) -> tuple[str, str]:
    """Draw a short question and its answer, over all facts."""
    relation = rng.randrange(9)
    if relation <= 1:
        word, language = rng.choice(world.WORDS), rng.choice(world.LANGUAGES)
        return f"{word.english} in {language}", word.into(language)
    if relation <= 3:
        name, capital, continent, language = rng.choice(world.COUNTRIES)
        return rng.choice(
            [
                (f"capital of {name}", capital),
                (f"continent of {name}", continent),
                (f"language of {name}", language),
            ]
        )
    label, table = [
        ("opposite of", world.OPPOSITES),
        ("past of", world.PAST_TENSES),
        ("plural of", world.PLURALS),
        ("kind of", world.KINDS),
        rng.choice([("colour of", world.COLOURS), ("sound of", world.SOUNDS)]),
    ][relation - 4]
    key, value = rng.choice(list(table.items()))
    return f"{label} {key}", value


def quiz(rng: Random) -> str:
    """A quiz line in plain text."""
    question, answer = _fact_quiz(rng)
    return rng.choice(
        [
            f"Q: {question}? A: {answer}.",
            f"Q: {question}? A: {answer}.",
            f"{question}: {answer}.",
            f"{question}? {answer}.",
            f"Quiz: {question}? Answer: {answer}.",
            f"{question} = {answer}",
        ]
    )


def code(rng: Random) -> str:
    """A Python one-liner with a comment that says what it does."""
    what, line = rng.choice(world.CODE)
    slots = {
        "xs": rng.choice(world.LIST_NAMES),
        "x": rng.choice(world.VARIABLE_NAMES),
        "a": rng.randrange(21),
        "b": rng.randrange(21),
    }
    what, line = what.format(**slots), line.format(**slots)
    return rng.choice([f"# {what}\n{line}", f"# {what}\n{line}", f"{line}  # {what}", f"Python, {what}: {line}"])


FACTS: list[Statement] = [translation, translation, country, country, word_form, word_form, thing]
