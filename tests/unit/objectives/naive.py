# SPDX-License-Identifier: Apache-2.0
"""Preference losses as their papers write them: plain Python numbers, one pair at a time, no code of the package."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from luthier.core.types import Tree


@dataclass(frozen=True)
class Answer:
    """One answer's tokens: what policy and reference say of each, and how it was judged."""

    grade: float
    score: float
    policy: list[float]
    reference: list[float]

    @property
    def p(self) -> float:
        return math.fsum(self.policy)

    @property
    def mean(self) -> float:
        return self.p / len(self.policy)

    @property
    def ratio(self) -> float:
        return self.p - math.fsum(self.reference)

    @property
    def mean_ratio(self) -> float:
        return self.ratio / len(self.policy)


def read(trees: Sequence[Tree], outputs: Sequence[torch.Tensor]) -> list[list[Answer]]:
    """The answers of each tree; mismatched ones have the grade NaN."""
    rows = []
    for tree, values in zip(trees, outputs, strict=True):
        left = values.tolist()
        answers = []
        for place, segment in enumerate(tree.segments):
            count = int(segment.scored.sum())
            if tree.parents[place] >= 0:
                score = tree.scores[place] if tree.scores else 0.0
                answers.append(Answer(tree.grades[place], score, left[:count], segment.reference.tolist()))
            left = left[count:]
        rows.append(answers)
    return rows


def pairs(rows: list[list[Answer]]) -> list[tuple[Answer, Answer]]:
    """Chosen and rejected, every two answers of a row whose grades differ."""
    found = []
    for answers in rows:
        for a, b in combinations([answer for answer in answers if not math.isnan(answer.grade)], 2):
            if a.grade != b.grade:
                found.append((a, b) if a.grade > b.grade else (b, a))
    return found


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _slope(log_u: float, keys: dict[str, Any]) -> float:
    """f'(pi / pi_ref) without its constant."""
    u = math.exp(log_u)
    kind = keys.get("f_divergence_type", "reverse_kl")
    if kind == "forward_kl":
        return -1 / u
    if kind == "js_divergence":
        return math.log(2 * u / (1 + u))
    alpha = 1 - keys.get("f_alpha_divergence_coef", 0.5)  # the paper's
    if kind == "alpha_divergence" and alpha:
        return -(u**-alpha) / alpha
    return math.log(u)


def dpo(w: Answer, l: Answer, keys: dict[str, Any]) -> float:  # noqa: E741 - the papers' y_w and y_l
    beta, eps = keys.get("beta", 0.1), keys.get("label_smoothing", 0.0)
    rw, rl = (w.mean_ratio, l.mean_ratio) if keys.get("length_normalized") else (w.ratio, l.ratio)
    x = beta * (_slope(rw, keys) - _slope(rl, keys))
    q = sigma(x)
    kinds: dict[str, Callable[[], float]] = {
        "sigmoid": lambda: -(1 - eps) * math.log(q) - eps * math.log(1 - q),
        "hinge": lambda: max(0.0, 1 - x),
        "robust": lambda: (-(1 - eps) * math.log(q) + eps * math.log(1 - q)) / (1 - 2 * eps),
        "exo_pair": lambda: q * math.log(q / (1 - eps)) + (1 - q) * math.log((1 - q) / eps),
        "nca_pair": lambda: (
            -math.log(sigma(beta * rw)) - (math.log(sigma(-beta * rw)) + math.log(sigma(-beta * rl))) / 2
        ),
        "apo_zero": lambda: 1 - sigma(beta * rw) + sigma(beta * rl),
        "apo_down": lambda: sigma(beta * rw) + 1 - sigma(beta * (rw - rl)),
        "sppo_hard": lambda: (rw - 1 / (2 * beta)) ** 2 + (rl + 1 / (2 * beta)) ** 2,
        "discopop": lambda: -math.log(q) * (1 - sigma(x / 0.05)) + math.exp(-x) * sigma(x / 0.05),
    }
    return kinds[keys.get("loss_type", "sigmoid")]() - keys.get("sft_weight", 0.0) * w.mean


def ipo(w: Answer, l: Answer, keys: dict[str, Any]) -> float:  # noqa: E741
    h = w.mean_ratio - l.mean_ratio if keys.get("length_normalized", True) else w.ratio - l.ratio
    return (h - 1 / (2 * keys.get("beta", 0.1))) ** 2


def simpo(w: Answer, l: Answer, keys: dict[str, Any]) -> float:  # noqa: E741
    eps = keys.get("label_smoothing", 0.0)
    q = sigma(keys.get("beta", 2.0) * (w.mean - l.mean) - keys.get("simpo_gamma", 0.5))
    return -(1 - eps) * math.log(q) - eps * math.log(1 - q) - keys.get("sft_weight", 0.0) * w.mean


def cpo(w: Answer, l: Answer, keys: dict[str, Any]) -> float:  # noqa: E741
    eps, x = keys.get("label_smoothing", 0.0), keys.get("beta", 0.1) * (w.p - l.p)
    smooth = -(1 - eps) * math.log(sigma(x)) - eps * math.log(sigma(-x))
    return (max(0.0, 1 - x) if keys.get("loss_type") == "hinge" else smooth) - keys.get("cpo_alpha", 1.0) * w.mean


def orpo(w: Answer, l: Answer, keys: dict[str, Any]) -> float:  # noqa: E741
    pw, pl = math.exp(w.mean), math.exp(l.mean)
    return -w.mean - keys.get("beta", 0.1) * math.log(sigma(math.log((pw / (1 - pw)) / (pl / (1 - pl)))))


def kto(rows: list[list[Answer]], keys: dict[str, Any]) -> float:
    """The sum over all labelled answers of a step."""
    answers = [answer for row in rows for answer in row]
    others = [answer.ratio for answer in answers if math.isnan(answer.grade)]
    z0 = max(0.0, sum(others) / len(others)) if keys.get("loss_type", "kto") == "kto" else 0.0
    beta, total = keys.get("beta", 0.1), 0.0
    for answer in answers:
        if answer.grade == 1:
            total += keys.get("desirable_weight", 1.0) * (1 - sigma(beta * (answer.ratio - z0)))
        if answer.grade == 0:
            total += keys.get("undesirable_weight", 1.0) * (1 - sigma(beta * (z0 - answer.ratio)))
    return total


def reward(rows: list[list[tuple[float, Answer]]], keys: dict[str, Any]) -> float:
    """The sum over all pairs of values."""
    total = 0.0
    for row in rows:
        for (a, one), (b, two) in combinations(row, 2):
            if one.grade == two.grade:
                continue
            (w, better), (l, worse) = ((a, one), (b, two)) if one.grade > two.grade else ((b, two), (a, one))  # noqa: E741
            margin = better.score - worse.score if keys.get("use_margin", True) else 0.0
            total -= math.log(sigma(w - l - margin))
            total += keys.get("center_rewards_coefficient", 0.0) * (w + l) ** 2
    return total


def total(name: str, trees: Sequence[Tree], outputs: Sequence[torch.Tensor], keys: dict[str, Any]) -> float:
    """What an objective's loss over a whole step must be."""
    if name == "reward":
        silent = [
            value.new_zeros(sum(int(s.scored.sum()) for s in tree.segments))
            for tree, value in zip(trees, outputs, strict=True)
        ]
        judged = read(trees, silent)
        return reward(
            [list(zip(values.tolist()[1:], row, strict=True)) for values, row in zip(outputs, judged, strict=True)],
            keys,
        )
    rows = read(trees, outputs)
    if name == "kto":
        return kto(rows, keys)
    one = {"dpo": dpo, "ipo": ipo, "simpo": simpo, "cpo": cpo, "orpo": orpo}[name]
    return math.fsum(one(*pair, keys) for pair in pairs(rows))
