# SPDX-License-Identifier: Apache-2.0
"""Answers of a model to a bench, as `model_answer/NAME.jsonl`: a temperature for each category, turn after turn.

The second turn is asked in the same conversation, after the model's own first answer. Questions of one temperature are
answered together and filed together; a file that was begun with the same settings is gone on with.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError, UserError
from luthier.judge.bench import read_answers
from luthier.judge.lines import read_lines, write_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from luthier.judge.bench import Bench, Question

    # Conversations, with temperature=, seed=, max_new_tokens= and batch_size= -> replies
    Generate = Callable[..., list[str]]

MAX_NEW_TOKENS = 1024  # FastChat's
_READ = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What answers depend on besides the model.

    Attributes:
        seed: Of the draws.
        max_new_tokens: Longest answer to a turn.
        batch_size: Questions at a time.
        system: System prompt, if the model is to have one.
    """

    seed: int = 0
    max_new_tokens: int = MAX_NEW_TOKENS
    batch_size: int = 16
    system: str | None = None


def answer(
    bench: Bench,
    name: str,
    generate: Generate,
    settings: Settings,
    *,
    weights: str,
    again: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Let a model answer every question of a bench.

    Args:
        bench: Its questions.
        name: Of the file, and of the model in every table.
        generate: A function as :func:`luthier.models.generate.generate` with its model and tokenizer given.
        settings: Seed, lengths and system prompt.
        weights: What tells this model from others of its name (:func:`weights_of`).
        again: Drop the answers that are there.
        say: Told how far it is.

    Raises:
        UserError: There are answers of another model, or with other settings, under this name.
    """
    file = bench.output / "model_answer" / f"{name}.jsonl"
    told = {"weights": weights, **vars(settings)}
    rows = {} if again or not file.exists() else _begun(file, told)
    for temperature, questions in _by_temperature(bench).items():
        if all(one.id in rows for one in questions):
            continue
        say(f"{name}: {len(questions)} questions at temperature {temperature:g}")
        for question, turns in zip(questions, _turns(questions, generate, settings, temperature), strict=True):
            rows[question.id] = _row(question, name, turns, told | {"temperature": temperature})
        place = {one.id: number for number, one in enumerate(bench.questions)}
        write_lines(file, sorted(rows.values(), key=lambda row: place.get(row["question_id"], len(place))))
    return file


def _begun(file: Path, told: dict[str, Any]) -> dict[Any, dict[str, Any]]:
    """Rows that are there, where the same model gave them under the same settings.

    Raises:
        UserError: They are of another.
    """
    read_answers(file)  # a broken file is told before a model has worked
    rows = {row["question_id"]: row for _, row in read_lines(file)}
    for row in rows.values():
        before = {key: value for key, value in row.get("generation", {}).items() if key != "temperature"}
        if before != told:
            other = next((key for key in told if before.get(key) != told[key]), "generation")
            received = f"answers with another {other}"
            fix = "add --again to replace them, or give this model another name with NAME=MODEL"
            raise UserError(str(file), received, "answers of this model with these settings", fix)
    return rows


def _by_temperature(bench: Bench) -> dict[float, list[Question]]:
    groups: dict[float, list[Question]] = defaultdict(list)
    for one in bench.questions:
        groups[bench.rules.temperature(one.category)].append(one)
    return dict(sorted(groups.items()))


def _turns(
    questions: Sequence[Question], generate: Generate, settings: Settings, temperature: float
) -> list[list[str]]:
    """Answers to each question's turns, [questions, turns]. Below 1e-4 nothing is drawn, as in FastChat."""
    first = [] if settings.system is None else [{"role": "system", "content": settings.system}]
    talks: list[list[dict[str, str]]] = [list(first) for _ in questions]
    answers: list[list[str]] = [[] for _ in questions]
    for turn in range(max(len(one.turns) for one in questions)):
        asked = [number for number, one in enumerate(questions) if turn < len(one.turns)]
        for number in asked:
            talks[number].append({"role": "user", "content": questions[number].turns[turn]})
        replies = generate(
            [talks[number] for number in asked],
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            temperature=0.0 if temperature < 1e-4 else temperature,
            seed=2 * settings.seed + turn,  # a turn draws other numbers than the one before
        )
        for number, reply in zip(asked, replies, strict=True):
            talks[number].append({"role": "assistant", "content": reply})
            answers[number].append(reply)
    return answers


def _row(question: Question, name: str, turns: list[str], told: dict[str, Any]) -> dict[str, Any]:
    """As FastChat writes it, with what the answers were made with behind it."""
    digest = hashlib.sha256(repr((question.id, name, turns, told)).encode()).hexdigest()
    return {
        "question_id": question.id,
        "answer_id": digest[:22],  # FastChat's random ids are as long
        "model_id": name,
        "choices": [{"index": 0, "turns": turns}],
        "tstamp": time.time(),
        "generation": told,
    }


def weights_of(place: str) -> str:
    """A digest of a folder's safetensors files, 16 hexadecimal digits; the name itself where there are none."""
    from luthier.models.load import locate  # imports torch, which reading answers does not need

    try:
        folder = Path(locate(place))
    except ModelError:  # a run, or an adapter
        folder = Path(place).expanduser()
    found = hashlib.sha256()
    result = [folder / name for name in ("adapter", "model") if (folder / name).is_dir()] or [folder]  # of a run
    files = sorted(file for part in result for file in part.glob("*.safetensors"))
    for file in files:
        found.update(file.name.encode())
        with file.open("rb") as opened:
            while chunk := opened.read(_READ):
                found.update(chunk)
    return found.hexdigest()[:16] if files else place


def named(words: Sequence[str]) -> dict[str, str]:
    """`NAME=MODEL`, or a model whose name is its last part -> name and place of each.

    Raises:
        UserError: Two have one name.

    Example:
        >>> named(["runs/lora", "full=runs/a/seed-0"])
        {'lora': 'runs/lora', 'full': 'runs/a/seed-0'}
    """
    found: dict[str, str] = {}
    for word in words:
        name, is_named, place = word.partition("=")
        if not is_named or "/" in name:
            name, place = Path(word.rstrip("/")).name, word
        if not name or not place:
            raise UserError(f"model {word!r}", "an empty name or place", "NAME=MODEL, or MODEL", "correct it")
        if name in found:
            fix = f"write {name}-2={place}"
            raise UserError(f"model {word!r}", f"a second model named {name}", "a name for each", fix)
        found[name] = place
    return found
