# SPDX-License-Identifier: Apache-2.0
"""What `luthier judge --table` says: one tree of plain data, and the same as lines of text."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.core.errors import UserError
from luthier.judge import agreement
from luthier.judge.bench import kind_of, open_bench
from luthier.judge.judgments import FOLDER, judgments_in, one_of, read_compared, read_rated
from luthier.judge.scores import by_category, differences, intervals, macro, win_intervals
from luthier.judge.table import pair_table, single_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from luthier.evaluate.statistics import Estimate
    from luthier.judge.bench import Bench
    from luthier.judge.judgments import Rated

DIGITS = 4  # of every score: FastChat's tables have six figures
Tree = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a table shows.

    Attributes:
        judge: Whose judgments; None where there is one judge.
        against: A second judge, for their agreement.
        baseline: The model that others are compared with.
        models: Only these; all where it is empty.
    """

    judge: str | None = None
    against: str | None = None
    baseline: str | None = None
    models: tuple[str, ...] = ()


def single(place: Path, bench: Bench | None, choice: Choice) -> Tree:
    """Scores of single answers.

    Returns:
        `models` as FastChat's three tables; with `intervals`, `categories`, `macro_average` and `differences`, each
        `{value, low, high}`; and `rows`, what was counted.

    Raises:
        UserError: There are no such judgments.
    """
    judge, rows, other = _judgments(place, "single", choice, read_rated)
    rows = [row for row in rows if not choice.models or row.model in choice.models]
    _known(choice, {row.model for row in rows})
    bench = bench or _bench_of(place)
    scale = bench.rules.SCALE if bench else (1.0, 10.0)
    tree: Tree = {"judge": judge, "mode": "single", "models": _rounded(single_table(rows))}
    tree["intervals"] = _plain_each(intervals(rows, scale))
    if bench:
        categories = {one.id: bench.rules.shown_category(one.category) for one in bench.questions}
        tree["categories"] = _plain_each(by_category(rows, categories, scale))
        tree["macro_average"] = _plain(macro(rows, categories, scale))
    if choice.baseline:
        apart = _plain(differences(rows, choice.baseline))
        tree["differences"] = {"baseline": choice.baseline, "models": apart}
    tree["rows"] = _counted(rows, bench)
    if choice.against:
        tree["agreement"] = {"with": choice.against, **_rounded_one(agreement.of_ratings(rows, other))}
    return tree


def pairs(place: Path, choice: Choice) -> Tree:
    """Win rates of pairs that were judged in both orders; `intervals` are those of the adjusted win rate.

    Raises:
        UserError: There are no such judgments.
    """
    judge, rows, other = _judgments(place, "pair", choice, read_compared)
    rows = [row for row in rows if not choice.models or {*choice.models} & {*row.models}]
    _known(choice, {model for row in rows for model in row.models})
    tree: Tree = {"judge": judge, "mode": "pairwise", "models": _rounded(pair_table(rows, choice.baseline))}
    tree["intervals"] = _plain(win_intervals(rows, choice.baseline))
    known = [row for row in rows if row.counts and (choice.baseline is None or choice.baseline in row.models)]
    same = sum(row.winners[0] == row.winners[1] for row in known)
    tree["rows"] = {
        "compared": len(known),
        "same_in_both_orders": round(same / len(known), DIGITS) if known else None,
        "without_verdict": sum(not row.counts for row in rows),
    }
    if choice.against:
        tree["agreement"] = {"with": choice.against, **_rounded_one(agreement.of_verdicts(rows, other))}
    return tree


def _judgments(
    place: Path, kind: str, choice: Choice, read: Callable[[Path], list[Any]]
) -> tuple[str, list[Any], list[Any]]:
    known = judgments_in(place, kind)
    judge = one_of(known, choice.judge)
    return judge, read(known[judge]), read(known[one_of(known, choice.against)]) if choice.against else []


def _known(choice: Choice, there: set[str]) -> None:
    for name in (*choice.models, *filter(None, (choice.baseline,))):
        if name not in there:
            raise UserError(f"model {name}", "no judgments of it", ", ".join(sorted(there)), "correct the name")


def _bench_of(place: Path) -> Bench | None:
    """The bench whose judgments these are, for the categories; None where only judgments are there."""
    found = [place] if (place / FOLDER).is_dir() else [one.parent for one in sorted(place.glob(f"*/{FOLDER}"))]
    if place.name == FOLDER:
        found = [place.parent]
    try:
        kind_of(found[0])
    except (IndexError, UserError):
        return None
    return open_bench(str(found[0]))


def _counted(rows: Sequence[Rated], bench: Bench | None) -> Tree:
    """Rated rows of each model, those without a rating, those that stand twice, and those that are missing."""
    tree: Tree = {}
    wanted = sum(len(one.turns) for one in bench.questions) if bench else None
    for model in dict.fromkeys(row.model for row in rows):
        own = Counter((row.question, row.turn) for row in rows if row.model == model)
        unrated = sum(row.model == model and not row.counts for row in rows)
        counts = {"rated": own.total() - unrated, "without_rating": unrated, "twice": own.total() - len(own)}
        tree[model] = counts | ({} if wanted is None else {"missing": max(0, wanted - len(own))})
    return tree


def _plain(found: Mapping[str, Estimate]) -> Tree:
    return {
        name: _rounded_one({"value": one.value, "low": one.low, "high": one.high, "stderr": one.stderr})
        for name, one in found.items()
    }


def _plain_each(found: Mapping[str, Mapping[str, Estimate]]) -> Tree:
    return {name: _plain(own) for name, own in found.items()}


def _rounded(table: Mapping[str, Mapping[str, float | None]]) -> Tree:
    return {name: _rounded_one(own) for name, own in table.items()}


def _rounded_one(own: Mapping[str, float | int | None]) -> Tree:
    # To ten digits first: means of the same scores by two ways differ by 1e-15, and 6.81875 would be two numbers.
    plain = {name: round(round(one, 10), DIGITS) if isinstance(one, float) else one for name, one in own.items()}
    return {name: None if value is None or math.isnan(value) else value for name, value in plain.items()}


def said(tree: Tree) -> list[str]:
    """A table as lines of text."""
    lines = _said_single(tree) if tree["mode"] == "single" else _said_pairs(tree)
    if "agreement" in tree:
        numbers = {key: value for key, value in tree["agreement"].items() if key != "with"}
        words = ", ".join(f"{key} {'–' if value is None else value}" for key, value in numbers.items())
        lines += ["", f"{tree['judge']} and {tree['agreement']['with']}: {words}"]
    return lines


def _said_single(tree: Tree) -> list[str]:
    two = any(own["turn_2"] is not None for own in tree["models"].values())
    turns, means = ["turn_1", "turn_2"] if two else [], tree.get("macro_average", {})
    shown = [
        ["model", *(name.replace("_", " ") for name in turns), "average [95 %]", *(["macro [95 %]"] if means else [])]
    ]
    for model, own in tree["models"].items():
        average = _spanned(own["average"], tree["intervals"][model]["average"])
        mean = [_spanned(means[model]["value"], means[model]) if model in means else "–"] if means else []
        shown.append([model, *(_number(own[name]) for name in turns), average, *mean])
    lines = [f"judged by {tree['judge']}; intervals over questions", *_aligned(shown)]
    if any(tree.get("categories", {}).values()):
        names = list(dict.fromkeys(name for own in tree["categories"].values() for name in own))
        body = [
            [model, *(_number(own.get(name, {}).get("value"), 3) for name in names)]
            for model, own in ((model, tree["categories"][model]) for model in tree["models"])
        ]
        lines += ["", *_aligned([["model", *names], *body])]
    for model, one in tree.get("differences", {}).get("models", {}).items():
        lines += ["", f"{model} minus {tree['differences']['baseline']}: {_spanned(one['value'], one)}"]
    for model, counts in tree["rows"].items():
        odd = [f"{counts[name]} {name.replace('_', ' ')}" for name in counts if name != "rated" and counts[name]]
        if odd:
            lines += ["", f"{model}: {counts['rated']} rated, {', '.join(odd)}"]
    return lines


def _said_pairs(tree: Tree) -> list[str]:
    heads = ["model", "win", "loss", "tie", "win rate", "loss rate", "adjusted [95 %]"]
    shown = []
    for model, own in tree["models"].items():
        adjusted = _spanned(own["win_rate_adjusted"], tree["intervals"][model])
        counts = [str(own[name]) for name in ("win", "loss", "tie")]
        shown.append([model, *counts, f"{own['win_rate']:.4f}", f"{own['loss_rate']:.4f}", adjusted])
    lines = [f"judged by {tree['judge']}; intervals over questions", *_aligned([heads, *shown])]
    if tree["rows"]["compared"]:
        lines += [
            "",
            f"same verdict in both orders: {tree['rows']['same_in_both_orders']:.3f} of {tree['rows']['compared']}",
        ]
    if tree["rows"]["without_verdict"]:
        lines += ["", f"{tree['rows']['without_verdict']} pairs without a verdict are left out"]
    return lines


def _spanned(value: float | None, interval: Mapping[str, float | None]) -> str:
    return f"{_number(value)} [{_number(interval['low'], 3)}, {_number(interval['high'], 3)}]"


def _number(value: float | None, digits: int = DIGITS) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
