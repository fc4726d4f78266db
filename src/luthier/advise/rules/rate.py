# SPDX-License-Identifier: Apache-2.0
"""`optim.learning_rate`: by method, objective and size of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.advise.rates import ANSWERS, JUDGED_FULL, JUDGED_LORA, LORA_OVER_FULL, Point, between, rounded
from luthier.advise.value import Advice
from luthier.recipe.rules import WHOLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.advise.facts import Facts

NEAR = 3.0  # a point at a third to three times the size is "a size like yours"


def advise(facts: Facts, chosen: Mapping[str, Any]) -> tuple[Advice, ...]:
    """Read the table at this model's size."""
    method, objective, size = chosen["method.name"], facts.objective, facts.model.parameters
    factor, points, why = _table(method, objective)
    rate, used = between(points, size)
    reasons = [_said(used), *why]
    if factor != 1:
        reasons.append(f"times {factor:g}")
    if method == "full" and objective == "sft" and 1e8 <= size <= 2.5e9:
        reasons.append("the handbook's SmolLM2 took far more: 1e-3 at 360 M and 3e-4 at 1.7 B, on millions of rows")
    ours = "more than the objective" if objective in JUDGED_FULL else "most of the gap between LoRA and rsLoRA"
    reasons.append(f"in our studies the rate was {ours}: tune it first (`tune` in docs/compare.md)")
    near = any(1 / NEAR <= size / point.parameters <= NEAR for point in used) and not why
    return (
        Advice(
            key="optim.learning_rate",
            value=rounded(rate * factor),
            reason="; ".join(reasons),
            sources=tuple(dict.fromkeys(point.source for point in used)),
            sure="fair" if near else "low",
        ),
    )


def _said(used: tuple[Point, ...]) -> str:
    """Where the rate comes from."""
    if len(used) > 1 and used[0].rate == used[1].rate:
        return f"{used[0].rate:g} on both sides of this size ({used[0].on}; {used[1].on})"
    listed = " and ".join(f"{point.rate:g} ({point.on})" for point in used)
    return f"between {listed}, by size" if len(used) > 1 else f"{listed}, the nearest size that is known"


def _table(method: str, objective: str) -> tuple[float, tuple[Point, ...], list[str]]:
    """A factor, the points to read, and what is said where they are another's."""
    judged = objective in JUDGED_FULL
    if method in ANSWERS and not judged:
        return 1.0, ANSWERS[method], [] if objective == "sft" else [f"nothing is known of {objective}: as for sft"]
    if not judged and method in WHOLE:
        return 1.0, ANSWERS["full"], [f"nothing is known of {method}: as in full"]
    if not judged:
        return 1.0, ANSWERS["lora"], [f"nothing is known of {method}: as for lora"]
    if method in WHOLE:
        return 1.0, JUDGED_FULL[objective], []
    strange = [] if method == "lora" else [f"nothing is known of {method} with {objective}: as for lora"]
    if objective in JUDGED_LORA:
        return 1.0, JUDGED_LORA[objective], strange
    return LORA_OVER_FULL, JUDGED_FULL[objective], [*strange, "that is in full, and LoRA takes ten times as much"]
