# SPDX-License-Identifier: Apache-2.0
"""Learning rates that were published or that our studies chose, by size of the model; between two of them a line.

    log rate is linear in log parameters between two points, and constant beyond the last ones.

The points of 3 M parameters are ours: the best of 3e-4 ... 0.3 on a suite that was not reported.
"""

from __future__ import annotations

import math
from typing import NamedTuple

SMALL = 2_951_424  # parameters of the built-in model


class Point(NamedTuple):
    """One rate that worked.

    Attributes:
        parameters: Of the model.
        rate: The learning rate.
        source: A name in `sources.SOURCES`.
        on: What it was used on.
    """

    parameters: float
    rate: float
    source: str
    on: str


def _ours(rate: float, source: str = "study-methods") -> Point:
    return Point(SMALL, rate, source, "the built-in 3 M model")


# Answers (sft), by method.
ANSWERS: dict[str, tuple[Point, ...]] = {
    "full": (_ours(1e-3), Point(7e9, 2e-5, "handbook", "Mistral 7B"), Point(65e9, 1e-5, "lima", "LLaMA 65B")),
    "lora": (
        _ours(3e-3),
        Point(355e6, 2e-4, "lora", "GPT-2 medium"),
        Point(13e9, 2e-4, "qlora", "LLaMA 7B and 13B"),
        Point(33e9, 1e-4, "qlora", "LLaMA 33B and 65B"),
    ),
    "freeze": (_ours(3e-3), Point(7e9, 2e-5, "handbook", "Mistral 7B in full")),
    "adapter": (_ours(1e-2), Point(330e6, 3e-4, "houlsby", "BERT large, the middle of three")),
    "ia3": (_ours(0.1), Point(3e9, 3e-3, "ia3", "T0 3B")),
    "prompt": (_ours(0.1), Point(11e9, 0.3, "prompt", "T5 up to 11B")),
    "bitfit": (_ours(0.1),),
    "norm": (_ours(3e-2),),
    "ptuning": (_ours(1e-2),),
    "prefix": (_ours(0.3),),
}
# Preferences and values, in full; a LoRA rate is ten times as high where none is known, as in the handbook's pairs
# of recipes (2e-5 and 2e-4 for answers, 5e-7 and 5e-6 for DPO).
LORA_OVER_FULL = 10.0
_DPO = (Point(360e6, 1e-6, "handbook", "SmolLM2 360M and 1.7B"), Point(1.7e9, 1e-6, "handbook", "SmolLM2 1.7B"))
_ZEPHYR = Point(7e9, 5e-7, "zephyr", "Mistral 7B")
JUDGED_FULL: dict[str, tuple[Point, ...]] = {
    "dpo": (*_DPO, _ZEPHYR),
    "ipo": (*_DPO, _ZEPHYR),
    "kto": (Point(7e9, 5e-6, "kto", "models up to 30B"),),
    "orpo": (Point(7e9, 8e-6, "orpo", "models of 2.7B and 7B"),),
    "cpo": (Point(7e9, 8e-6, "orpo", "models of 2.7B and 7B, with a likelihood term as CPO has"),),
    "simpo": (Point(8e9, 6e-7, "simpo", "7B and 8B models, 3e-7 to 1e-6"),),
    "reward": (Point(6e9, 9e-6, "instructgpt", "GPT-3 6B"),),
}
_OURS = "study-preference"
JUDGED_LORA: dict[str, tuple[Point, ...]] = {
    "dpo": (_ours(1.5e-4, _OURS), Point(7e9, 5e-6, "handbook", "Zephyr 7B with QLoRA")),
    "ipo": (_ours(1.5e-4, _OURS), Point(7e9, 5e-6, "handbook", "Zephyr 7B with QLoRA, for DPO")),
    "kto": (_ours(1.5e-4, _OURS), Point(7e9, 5e-5, "kto", "ten times the paper's rate in full")),
    "orpo": (_ours(5e-4, _OURS), Point(7e9, 8e-5, "orpo", "ten times the paper's rate in full")),
    "cpo": (_ours(5e-4, _OURS), Point(7e9, 8e-5, "orpo", "ten times ORPO's rate in full")),
    "simpo": (_ours(5e-4, _OURS), Point(8e9, 6e-6, "simpo", "ten times the paper's rate in full")),
}


def between(points: tuple[Point, ...], parameters: float) -> tuple[float, tuple[Point, ...]]:
    """The rate at a size, and the one or two points that it comes from.

    Example:
        >>> rate, used = between((Point(1e6, 1e-2, "lora", ""), Point(1e8, 1e-4, "lora", "")), 1e7)
        >>> round(rate, 6), len(used), between(used, 1e9)[0]
        (0.001, 2, 0.0001)
    """
    below = [point for point in points if point.parameters <= parameters]
    above = [point for point in points if point.parameters > parameters]
    if not below or not above:
        near = (below[-1] if below else above[0],)
        return near[0].rate, near
    low, high = below[-1], above[0]
    share = math.log(parameters / low.parameters) / math.log(high.parameters / low.parameters)
    return low.rate * (high.rate / low.rate) ** share, (low, high)


def rounded(rate: float) -> float:
    """The nearest of 1, 1.5, 2, 3, 5, 8 times a power of ten.

    Example:
        >>> rounded(1.09e-4), rounded(4.1e-5), rounded(3e-3)
        (0.0001, 5e-05, 0.003)
    """
    power = 10.0 ** math.floor(math.log10(rate))
    steps = [step * power for step in (1, 1.5, 2, 3, 5, 8, 10)]
    return float(f"{min(steps, key=lambda step: abs(math.log(step / rate))):.2g}")
