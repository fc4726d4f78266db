# SPDX-License-Identifier: Apache-2.0
"""Results of several models on the same items: kept as files, read again, and compared item by item.

OUT/evaluation.json             {model, evaluation: {suite: {metric, value, low, high, ..., digest}}}
OUT/predictions-SUITE.jsonl     a line an item: what was said, and `right`, what it adds to the metric
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import DataError, UserError
from luthier.evaluate.bootstrap import bootstrap
from luthier.evaluate.evaluation import group_numbers
from luthier.evaluate.judged import metric_of
from luthier.evaluate.significance import ALPHA, holm, sign_flip
from luthier.evaluate.statistics import paired, summed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from luthier.evaluate.evaluation import Evaluation
    from luthier.evaluate.statistics import Estimate

FILE = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model's items add to a suite's metric.

    Attributes:
        values: Of each item, [N].
        groups: The name of each item's group, "" where it has none.
    """

    values: np.ndarray
    groups: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a model was worth on several suites.

    Attributes:
        model: Its name.
        evaluation: Suite -> what `summary.json` holds of it.
        answers: Suite -> its items.
    """

    model: str
    evaluation: Mapping[str, dict[str, Any]]
    answers: Mapping[str, Answers]

    @classmethod
    def of(cls, model: str, found: Sequence[Evaluation]) -> Results:
        """Results of evaluations just made."""
        answers = {
            one.suite.name: Answers(values=one.judged.values, groups=tuple(item.group for item in one.suite.items))
            for one in found
        }
        return cls(model=model, evaluation={one.suite.name: one.to_json() for one in found}, answers=answers)

    def to_json(self) -> dict[str, Any]:
        """As evaluation.json holds it."""
        return {"model": self.model, "evaluation": dict(self.evaluation)}

    def write(self, folder: Path, found: Sequence[Evaluation]) -> None:
        """Write both kinds of files; evaluation.json last, so that the rows of every suite that it names are there."""
        folder.mkdir(parents=True, exist_ok=True)
        for one in found:
            one.write(folder / f"predictions-{one.suite.name}.jsonl")
        writing = folder / f"{FILE}.writing"
        writing.write_text(json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        writing.replace(folder / FILE)


def is_results(folder: Path) -> bool:
    """Whether a folder holds results."""
    return (folder / FILE).is_file()


def read_results(folder: Path) -> Results:
    """Read what :meth:`Results.write` wrote.

    Raises:
        DataError: A file is missing or broken.
    """
    answers = {}
    try:
        tree = json.loads((folder / FILE).read_text(encoding="utf-8"))
        for suite in tree["evaluation"]:
            lines = (folder / f"predictions-{suite}.jsonl").read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines]
            values = np.array([float(row["right"]) for row in rows])
            answers[suite] = Answers(values=values, groups=tuple(str(row.get("group", "")) for row in rows))
        return Results(model=str(tree["model"]), evaluation=tree["evaluation"], answers=answers)
    except (OSError, ValueError, KeyError, TypeError) as error:
        received = f"cannot be read ({type(error).__name__}: {error})"
        raise DataError(str(folder), received, "a folder that --output wrote", "evaluate again") from None


def against(found: Sequence[Results]) -> list[dict[str, Any]]:
    """Each result minus the first one, on every suite that both have, corrected as one family.

    Returns:
        Rows of plain data: `model, suite, metric, items, difference, stderr, low, high, p, p_holm, verdict`.

    Raises:
        UserError: A suite of one name held other items, or another metric, or no suite is shared.
    """
    rows: list[dict[str, Any]] = []
    first = found[0]
    for other in found[1:]:
        shared = [suite for suite in first.evaluation if suite in other.evaluation]
        if not shared:
            received = f"{other.model} was not asked a suite of {first.model}"
            raise UserError("luthier evaluate", received, "suites that both were asked", "name one with --suite")
        rows += [_difference(first, other, suite) for suite in shared]
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
        seen = p <= ALPHA
        up = row["difference"] > 0
        better = up != bool(metric_of(row["metric"]).rising)  # of a metric that falls, less is better
        row["verdict"] = "no difference seen" if not seen else "better" if better else "worse"
    return rows


def _difference(first: Results, other: Results, suite: str) -> dict[str, Any]:
    one, two = first.evaluation[suite], other.evaluation[suite]
    if (one["digest"], one["metric"]) != (two["digest"], two["metric"]):
        received = f"{first.model} and {other.model} were asked other items, or were judged otherwise"
        raise UserError(f"suite {suite}", received, "results on the same items", "evaluate both again")
    table = paired(other.answers[suite].values, first.answers[suite].values)
    groups = group_numbers(first.answers[suite].groups)
    known = metric_of(one["metric"])
    reach = known.high - known.low
    estimate = bootstrap([table], groups, limits=(-reach, reach))[0]
    names = ("difference", "stderr", "low", "high")
    numbers = (estimate.value, estimate.stderr, estimate.low, estimate.high)
    told = {"model": other.model, "suite": suite, "metric": one["metric"], "items": table.shape[1]}
    return {**told, **dict(zip(names, map(float, numbers), strict=True)), "p": sign_flip(summed(table, groups)[0])}


def number(value: float) -> str:
    """A value in words: large ones, such as perplexities of models that know nothing, without their digits.

    Example:
        >>> number(0.5), number(2.5e16)
        ('0.5000', '2.5e+16')
    """
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"


def interval(value: float, found: Estimate) -> str:
    """A value with its 95 % interval, in words.

    Example:
        >>> from luthier.evaluate.statistics import Estimate
        >>> interval(0.5, Estimate(value=0.5, stderr=0.1, low=0.3, high=0.7))
        '0.5000 [0.3000, 0.7000]'
    """
    ends = "" if math.isnan(found.low) else f" [{number(found.low)}, {number(found.high)}]"
    return f"{number(value)}{ends}"
