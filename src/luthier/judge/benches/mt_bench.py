# SPDX-License-Identifier: Apache-2.0
"""MT-bench as FastChat has it: questions of two turns, ratings from 1 to 10, and pairs judged in both orders.

Reference:
    Zheng et al., Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena, arXiv 2306.05685; lm-sys/FastChat,
    fastchat/llm_judge: its files, prompt names, temperatures, rating rule and tables.
"""

from __future__ import annotations

from string import Formatter
from typing import TYPE_CHECKING

from luthier.core.errors import DataError
from luthier.judge.bench import Asked, Prompt, Question
from luthier.judge.lines import column, read_lines, texts
from luthier.judge.rating import rating as rate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["PARAMETERS", "QUESTIONS", "SCALE", "compared", "rate", "read", "shown_category", "single", "temperature"]

QUESTIONS = "question.jsonl"
PROMPTS = "judge_prompts.jsonl"
SCALE = (1.0, 10.0)
PARAMETERS = {"temperature": 0, "max_tokens": 2048}  # of the judge
WITH_REFERENCE = ("math", "reasoning", "coding", "arena-hard-200")
_TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}


def read(folder: Path) -> tuple[list[Question], Mapping[str, Prompt]]:
    """Questions, and the judge's prompts from the folder or the one above it, where FastChat keeps them.

    A table needs no prompts, so a folder may be without them until something is asked.

    Raises:
        DataError: A row cannot be used.
    """
    questions = [
        Question(
            id=column(row, "question_id", (int, str), where),
            category=column(row, "category", str, where),
            turns=texts(row.get("turns"), "turns", where),
        )
        for where, row in read_lines(folder / QUESTIONS)
    ]
    files = [place for place in (folder / PROMPTS, folder.parent / PROMPTS) if place.is_file()]
    prompts = [_prompt(row, where) for file in files[:1] for where, row in read_lines(file)]
    return questions, {one.name: one for one in prompts}


def _prompt(row: dict[str, object], where: str) -> Prompt:
    name, system, template = (column(row, key, str, where) for key in ("name", "system_prompt", "prompt_template"))
    return Prompt(name=name, system=system, template=template)


def shown_category(category: str) -> str:
    """The category of a table that a question's category belongs to: itself."""
    return category


def temperature(category: str) -> float:
    """Of the answers to questions of a category; 0 takes the likeliest token each time."""
    return _TEMPERATURES.get(category, 0.7)


def single(
    prompts: Mapping[str, Prompt], question: Question, turn: int, answer: tuple[str, ...], reference: tuple[str, ...]
) -> Asked:
    """What the judge is asked of one answer; the second turn is shown with the whole conversation.

    Args:
        prompts: Of the bench.
        question: What the model was asked.
        turn: From 1.
        answer: What it answered, turn by turn.
        reference: Right answers, turn by turn; empty where there are none.

    Raises:
        DataError: The category needs a reference and there is none, or a prompt is missing or broken.
    """
    base = "single-math-v1" if question.category in WITH_REFERENCE else "single-v1"
    answers = {"answer": answer[0]} if turn == 1 else _numbered("answer", answer[:turn])
    return _asked(prompts, base, question, turn, answers, reference)


def compared(
    prompts: Mapping[str, Prompt],
    question: Question,
    turn: int,
    answers: tuple[tuple[str, ...], tuple[str, ...]],
    reference: tuple[str, ...],
) -> Asked:
    """What the judge is asked of two answers, the first of them as assistant A; arguments as in :func:`single`."""
    base = "pair-math-v1" if question.category in WITH_REFERENCE else "pair-v2"
    shown: dict[str, str] = {}
    for letter, answer in zip("ab", answers, strict=True):
        shown |= {f"answer_{letter}": answer[0]} if turn == 1 else _numbered(f"answer_{letter}", answer[:turn])
    return _asked(prompts, base, question, turn, shown, reference)


def _asked(
    prompts: Mapping[str, Prompt],
    base: str,
    question: Question,
    turn: int,
    answers: dict[str, str],
    reference: tuple[str, ...],
) -> Asked:
    name = base if turn == 1 else f"{base}-multi-turn"
    if name not in prompts:
        allowed, fix = "a row for each prompt of FastChat", "put the file beside question.jsonl, or add the row"
        raise DataError(PROMPTS, f"no prompt {name!r}", allowed, fix)
    fields = {"question": question.turns[0]} if turn == 1 else _numbered("question", question.turns[:turn])
    fields |= answers
    if question.category in WITH_REFERENCE:
        if len(reference) < turn:
            received = f"no reference answer to turn {turn} of a question of {question.category}"
            fix = "add it to reference_answer/, which the judge is shown"
            raise DataError(f"question {question.id}", received, "a right answer to each turn", fix)
        fields |= _numbered("ref_answer", reference[:turn])
    prompt = prompts[name]
    return Asked(prompt=name, system=prompt.system, user=_fill(prompt, fields))


def _numbered(name: str, values: tuple[str, ...]) -> dict[str, str]:
    return {f"{name}_{number}": value for number, value in enumerate(values, 1)}


def _fill(prompt: Prompt, fields: dict[str, str]) -> str:
    """str.format with plain names only: a template comes from a file, and must not reach into objects."""
    where = f"{PROMPTS}, {prompt.name}"
    try:
        parts = list(Formatter().parse(prompt.template))
    except ValueError as error:
        raise DataError(
            where, f"prompt_template is broken ({error})", "fields in braces", "write {{ for a brace"
        ) from None
    for _, name, spec, conversion in parts:
        if name is not None and (name not in fields or spec or conversion):
            allowed = ", ".join(f"{{{known}}}" for known in fields)
            raise DataError(where, f"the field {{{name}}}", allowed, "correct the template; {{ stands for a brace")
    return prompt.template.format(**fields)
