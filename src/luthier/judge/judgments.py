# SPDX-License-Identifier: Apache-2.0
"""`model_judgment/JUDGE_single.jsonl` and `JUDGE_pair.jsonl`: what judges said, as FastChat writes it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError, UserError
from luthier.judge.lines import column, read_lines
from luthier.judge.rating import NO_RATING

if TYPE_CHECKING:
    from pathlib import Path

    from luthier.judge.bench import Id

FOLDER = "model_judgment"
WINNERS = ("model_1", "model_2", "tie", "error")


@dataclass(frozen=True, kw_only=True)
class Rated:
    """A judgment of one answer; `score` is -1 where the reply held no rating."""

    question: Id
    model: str
    turn: int
    score: float

    @property
    def counts(self) -> bool:
        """Whether there is a rating."""
        return self.score != NO_RATING


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A judgment of two answers in both orders; what the judge said first with model_1 as A, then with model_2 as A."""

    question: Id
    models: tuple[str, str]
    turn: int
    winners: tuple[str, str]

    @property
    def counts(self) -> bool:
        """Whether both replies held a verdict."""
        return "error" not in self.winners

    @property
    def winner(self) -> str | None:
        """The model that won both times; None for a tie, which disagreement of the two orders is too."""
        first, second = self.winners
        return None if first == "tie" or first != second else self.models[0 if first == "model_1" else 1]


def read_rated(file: Path) -> list[Rated]:
    """Judgments of single answers.

    Raises:
        DataError: A row cannot be used.
    """
    found = []
    for where, row in read_lines(file):
        score = column(row, "score", (int, float), where)
        if not math.isfinite(score):
            raise DataError(where, f"score {score}", "a finite number; -1 for none", "mend the line")
        found.append(Rated(question=_id(row, where), model=_name(row, where), turn=_turn(row, where), score=score))
    return found


def read_compared(file: Path) -> list[Compared]:
    """Judgments of pairs.

    Raises:
        DataError: A row cannot be used.
    """
    found = []
    for where, row in read_lines(file):
        winners = (column(row, "g1_winner", str, where), column(row, "g2_winner", str, where))
        if unknown := [one for one in winners if one not in WINNERS]:
            raise DataError(where, f"winner {unknown[0]!r}", ", ".join(WINNERS), "mend the line")
        models = (column(row, "model_1", str, where), column(row, "model_2", str, where))
        found.append(Compared(question=_id(row, where), models=models, turn=_turn(row, where), winners=winners))
    return found


def _id(row: dict[str, Any], where: str) -> Id:
    found: Id = column(row, "question_id", (int, str), where)
    return found


def _name(row: dict[str, Any], where: str) -> str:
    found: str = column(row, "model", str, where)
    return found


def _turn(row: dict[str, Any], where: str) -> int:
    found: int = column(row, "turn", int, where)
    return found


def judgments_in(place: Path, kind: str) -> dict[str, Path]:
    """Judge -> its file of judgments, in a bench, in the one bench inside a folder, or in the folder itself.

    Args:
        place: A folder.
        kind: `single` or `pair`.

    Raises:
        UserError: There are none, or several benches have some.
    """
    folders = [place / FOLDER, place, *sorted(place.glob(f"*/{FOLDER}"))]
    holding = [folder for folder in folders if any(folder.glob(f"*_{kind}.jsonl"))]
    if holding and holding[0].parent.parent == place and len(holding) > 1:
        names = ", ".join(folder.parent.name for folder in holding)
        raise UserError(f"--table {place}", f"judgments of several benches: {names}", "one bench", "name its folder")
    if not holding:
        allowed = f"{FOLDER}/JUDGE_{kind}.jsonl"
        raise UserError(f"--table {place}", "no judgments", allowed, "judge answers first, or name another folder")
    files = sorted(holding[0].glob(f"*_{kind}.jsonl"))
    return {file.stem.removesuffix(f"_{kind}"): file for file in files if not file.name.startswith(".")}


def one_of(known: dict[str, Path], judge: str | None) -> str:
    """The judge that is meant.

    Raises:
        UserError: It has no judgments, or none was named and there are several.
    """
    if judge is None and len(known) == 1:
        return next(iter(known))
    if judge is None or judge not in known:
        received = "judgments of several judges" if judge is None else f"no judgments of {judge}"
        raise UserError("--model", received, ", ".join(known), "name one of them with --model")
    return judge
