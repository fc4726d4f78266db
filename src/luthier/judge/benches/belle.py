# SPDX-License-Identifier: Apache-2.0
"""BELLE's evaluation set: Chinese questions of nine categories, answers rated from 0 to 1, and the categories' mean.

Reference:
    A Comparative Study between Full-Parameter and LoRA-based Fine-Tuning on Chinese Instruction Data, arXiv 2304.08109;
    LianjiaTech/BELLE, eval/: eval_set.json, eval_prompt.json and the page that puts them together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.core.errors import DataError, did_you_mean
from luthier.judge.bench import Asked, Prompt, Question
from luthier.judge.lines import column, read_lines
from luthier.judge.rating import share as rate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["PARAMETERS", "QUESTIONS", "SCALE", "compared", "rate", "read", "shown_category", "single", "temperature"]

QUESTIONS = "eval_set.json"  # JSON Lines, whatever its name says
PROMPTS = "eval_prompt.json"
SCALE = (0.0, 1.0)
PARAMETERS = {"temperature": 0, "max_tokens": 2048}
WITHOUT_REFERENCE = ("generation", "brainstorming", "rewrite")
OTHERS = ("math", "code")  # one category, `others`, in the paper's tables
compared = None  # BELLE has no prompts for pairs


def read(folder: Path) -> tuple[list[Question], Mapping[str, Prompt]]:
    """Questions, numbered from 1 in the file's order, and the prompt of each class.

    A question's category keeps its class; tables put math and code together (`shown_category`).

    Raises:
        DataError: A file is missing, a row cannot be used, or a class has no prompt.
    """
    prompts = {}
    for where, row in read_lines(folder / PROMPTS):
        name = _plain(column(row, "class", str, where))
        prompts[name] = Prompt(name=name, system="", template=column(row, "prompt", str, where))
    questions = []
    for number, (where, row) in enumerate(read_lines(folder / QUESTIONS), 1):
        category, right = _plain(column(row, "class", str, where)), column(row, "std_answer", str, where)
        if category not in prompts:
            raise DataError(where, f"class {category!r}", f"a class of {PROMPTS}", did_you_mean(category, prompts))
        asked = column(row, "question", str, where)
        reference = (right,) if right.strip() and category not in WITHOUT_REFERENCE else ()
        questions.append(Question(id=number, category=category, turns=(asked,), reference=reference))
    return questions, prompts


def _plain(name: str) -> str:
    """The files write `open qa` and `open QA`, and some with a no-break space."""
    return " ".join(name.lower().split())


def shown_category(category: str) -> str:
    """The category of a table that a class belongs to."""
    return "others" if category in OTHERS else category


def temperature(_: str) -> float:
    """Of the answers: 0.001 in the paper."""
    return 0.001


def single(
    prompts: Mapping[str, Prompt], question: Question, turn: int, answer: tuple[str, ...], reference: tuple[str, ...]
) -> Asked:
    """What the judge is asked of one answer, word by word as BELLE's page puts it together.

    Args:
        prompts: Of the bench.
        question: What the model was asked.
        turn: 1.
        answer: What it answered.
        reference: The right answer; empty for generation, brainstorming and rewriting.

    Raises:
        DataError: The class needs a reference and there is none.
    """
    prompt, asked = prompts[question.category], question.turns[turn - 1]
    if question.category in WITHOUT_REFERENCE:
        user = f"{prompt.template} {asked}  模型回答： '{answer[0]}'。请针对模型回答给出得分，顺便给出理由："
    elif not reference:
        received = f"an empty std_answer of class {question.category}"
        raise DataError(f"question {question.id}", received, "a right answer, which the judge is shown", "add it")
    else:
        user = (
            f"{prompt.template} {asked} 标准回答:{reference[0]}  模型回答：' {answer[0]}'。"
            "请针对模型回答给出得分，顺便给出理由："
        )
    return Asked(prompt=question.category, system="", user=user)
