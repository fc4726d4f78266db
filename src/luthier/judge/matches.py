# SPDX-License-Identifier: Apache-2.0
"""What is to be judged: each answer of each turn, or each pair of answers in both orders."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from luthier.core.errors import UserError
from luthier.judge.bench import answers_of
from luthier.judge.rating import verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

    from luthier.judge.bench import Asked, Bench, Id
    from luthier.judge.cache import Reply

BASELINE = "gpt-3.5-turbo"  # FastChat's
MODES = ("single", "pairwise-baseline", "pairwise-all")
_GAMES = ({"A": "model_1", "B": "model_2"}, {"A": "model_2", "B": "model_1"})


@dataclass(frozen=True, kw_only=True)
class Match:
    """One judgment: of one answer by one question to the judge, or of two answers by two.

    Attributes:
        question: Its id.
        models: One name, or two.
        turn: From 1.
        asked: One question to the judge for one model; for two, one with each of them as assistant A.
    """

    question: Id
    models: tuple[str, ...]
    turn: int
    asked: tuple[Asked, ...]

    @property
    def identity(self) -> tuple[Any, ...]:
        """What a row of judgments is told by."""
        return (self.question, *self.models, self.turn)

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of its row that do not depend on the judge."""
        names = (
            {"model": self.models[0]}
            if len(self.models) == 1
            else dict(zip(_GAMES[0].values(), self.models, strict=True))
        )
        return {"question_id": self.question, **names, "turn": self.turn}

    def row(self, judge: str, replies: Sequence[Reply], keys: Sequence[str], rules: ModuleType) -> dict[str, Any]:
        """As FastChat writes it, with the keys of the replies (`cache.py`) behind its columns."""
        named = {"judge": [judge, self.asked[0].prompt]}
        first = {key: value for key, value in self.columns.items() if key != "turn"}
        if len(self.models) == 1:
            text = replies[0].text
            said = {"user_prompt": self.asked[0].user, "judgment": text, "score": rules.rate(text)}
            found = first | named | said
        else:
            said = {}
            for number, (asked, reply) in enumerate(zip(self.asked, replies, strict=True), 1):
                said |= {f"g{number}_user_prompt": asked.user, f"g{number}_judgment": reply.text}
            found = first | _winners(replies) | named | said
        return found | {"turn": self.turn, "tstamp": max(one.time for one in replies), "request": list(keys)}


def _winners(replies: Sequence[Reply]) -> dict[str, str]:
    letters = [verdict(reply.text) for reply in replies]
    return {f"g{number}_winner": _GAMES[number - 1].get(letter, letter) for number, letter in enumerate(letters, 1)}


def identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Of a stored row; see :attr:`Match.identity`."""
    models = (row.get("model"),) if "model" in row else (row.get("model_1"), row.get("model_2"))
    return (row.get("question_id"), *models, row.get("turn"))


def prompts_of(row: Mapping[str, Any]) -> list[Any]:
    """What the judge was asked for a stored row."""
    return [row.get("user_prompt")] if "user_prompt" in row else [row.get("g1_user_prompt"), row.get("g2_user_prompt")]


def plan(
    bench: Bench, models: Sequence[str], references: Mapping[Id, tuple[str, ...]], mode: str, baseline: str = BASELINE
) -> list[Match]:
    """All judgments of a mode, turn by turn.

    Args:
        bench: Questions and prompts.
        models: Names of answer files.
        references: Right answers by question.
        mode: `single`; `pairwise-baseline`, each model with one; `pairwise-all`, each with each.
        baseline: That one.

    Raises:
        DataError: Answers or reference answers are missing.
        UserError: The mode is unknown, or has nothing to compare.
    """
    if mode not in MODES:
        raise UserError("--mode", repr(mode), ", ".join(MODES), "choose one")
    if mode == "single":
        return [match for model in models for match in _singles(bench, model, references)]
    if bench.rules.compared is None:
        raise UserError("--mode", f"{mode} for a bench without prompts for pairs", "single", "leave --mode out")
    alone = [model for model in models if model != baseline]
    pairs = list(combinations(models, 2)) if mode == "pairwise-all" else [(model, baseline) for model in alone]
    if not pairs:
        raise UserError("--mode", f"{mode} with {', '.join(models)} alone", "two models or more", "name another model")
    answers = {model: answers_of(bench, model) for pair in pairs for model in pair}
    return [match for pair in pairs for match in _pairs(bench, pair, answers, references)]


def _singles(bench: Bench, model: str, references: Mapping[Id, tuple[str, ...]]) -> Iterator[Match]:
    answers = answers_of(bench, model)
    for turn in range(1, 1 + max(len(one.turns) for one in bench.questions)):
        for one in bench.questions:
            if turn <= len(one.turns):
                shown = references.get(one.id, ())
                asked = bench.rules.single(bench.prompts, one, turn, answers[one.id], shown)
                yield Match(question=one.id, models=(model,), turn=turn, asked=(asked,))


def _pairs(
    bench: Bench,
    pair: tuple[str, str],
    answers: Mapping[str, Mapping[Id, tuple[str, ...]]],
    references: Mapping[Id, tuple[str, ...]],
) -> Iterator[Match]:
    for turn in range(1, 1 + max(len(one.turns) for one in bench.questions)):
        for one in bench.questions:
            if turn <= len(one.turns):
                shown = references.get(one.id, ())
                both = tuple(answers[model][one.id] for model in pair)
                asked = tuple(
                    bench.rules.compared(bench.prompts, one, turn, order, shown) for order in (both, both[::-1])
                )
                yield Match(question=one.id, models=pair, turn=turn, asked=asked)
