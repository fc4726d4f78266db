# SPDX-License-Identifier: Apache-2.0
"""Epochs, warm-up, the shape of the rate, weight decay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.advise.steps import epochs, total_steps
from luthier.advise.value import Advice
from luthier.recipe.rules import WHOLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.advise.facts import Facts
    from luthier.advise.value import Sure

FEW_STEPS = 100  # 3 % of fewer are three steps and less


def advise(facts: Facts, chosen: Mapping[str, Any]) -> tuple[Advice, ...]:
    """Read the steps that come out, and set the schedule by them."""
    step = chosen["train.per_device_train_batch_size"] * chosen["train.gradient_accumulation_steps"]
    steps = total_steps(facts, chosen["data.max_length"], step)
    return (_epochs(facts), *_warm_up(facts, steps), _decay(chosen["method.name"]))


def _epochs(facts: Facts) -> Advice:
    data, value = facts.data, epochs(facts)
    sources: tuple[str, ...] = ("belle",)
    if data is None:
        reason = "no rows were named; BELLE took 3 in full and 4 with LoRA"
    elif data.text:
        reason, sources = "plain text is best seen once; up to four passes cost little in pretraining", ("repeat",)
    elif data.judged:
        reason, sources = "the handbook's Zephyr takes one; few pairs are seen three times", ("handbook",)
    elif data.rows < 1_000:
        reason, sources = "few rows are seen more often: LIMA took 15 for its 1,000, BELLE 3 to 4", ("lima", "belle")
    elif data.rows < 100_000:
        reason = "BELLE took 3 in full and 4 with LoRA; evaluation loss tells when to stop"
    else:
        reason, sources = (
            "as many rows are seen once in the handbook's Zephyr; BELLE took 3 of more",
            ("handbook", "belle"),
        )
    sure: Sure = "low" if data is None else "fair"
    return Advice(key="train.num_train_epochs", value=value, reason=reason, sources=sources, sure=sure)


def _warm_up(facts: Facts, steps: int) -> tuple[Advice, Advice]:
    key = "optim.warmup_ratio"
    sources: tuple[str, ...]
    if facts.data and facts.data.judged:
        reason, sources, value = "a tenth, as Zephyr and the rsLoRA article have it", ("zephyr", "handbook"), 0.1
    elif 0 < steps < FEW_STEPS:
        reason = f"of about {steps} steps 3 % would be next to none; our studies of 150 steps warmed up for 13 %"
        sources, value = ("study-methods",), 0.1
    else:
        reason, sources, value = "3 % of the steps, as QLoRA and BELLE have it", ("qlora", "belle"), 0.03
    warm = Advice(key=key, value=value, reason=reason, sources=sources, sure="fair")
    reason = (
        "down to zero, as in our studies; BELLE and the handbook take cosine; no comparison of the two is known to us"
    )
    return warm, Advice(
        key="optim.lr_scheduler_type",
        value="linear",
        reason=reason,
        sources=("study-methods", "belle", "handbook"),
        sure="fair",
        means=("cosine",),
    )


def _decay(method: str) -> Advice:
    sources: tuple[str, ...]
    reason, sources = "none, as in our studies; LIMA took 0.1 in full", ("study-methods", "lima")
    if method not in WHOLE:
        reason = "none, as in our studies; at 7B LoRA kept more than weight decay did; its authors took 0.01 on GPT-2"
        sources = ("study-methods", "forgets", "lora")
    return Advice(key="optim.weight_decay", value=0.0, reason=reason, sources=sources, sure="fair")
