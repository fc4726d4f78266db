# SPDX-License-Identifier: Apache-2.0
"""Micro-batch, accumulation and gradient checkpointing: rows of a step by their number, cut as memory allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.advise.choice import choose
from luthier.advise.fit import Ask, fits
from luthier.advise.steps import step_rows, step_size
from luthier.advise.value import Advice
from luthier.planning.free import size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.advise.facts import Facts
    from luthier.advise.value import Sure


def advise(facts: Facts, chosen: Mapping[str, Any]) -> tuple[Advice, ...]:
    """Fix the step by the rows, then the micro-batch by the memory."""
    length = chosen["data.max_length"]
    step = step_size(facts, length)
    choice = choose(facts, length, step)
    ask, fit = choice.ask, choice.fit
    unit = "judged examples" if facts.data and facts.data.judged else f"bins of {length:,} tokens"
    told = f"{fit}, of which 90 % may be used"
    why = (
        f"the largest micro-batch that fits ({unit}): {told}"
        if fit.ok
        else f"one at a time, and it does not fit: {told}"
    )
    if ask.batch == step and fit.ok:
        why = f"a whole step fits at once ({unit}): {told}"
    rows = step_rows(facts)
    means = f"about {rows} rows" if facts.data else "16 bins"
    so = f"{ask.batch} x {step // ask.batch} = {step} {unit} a step, {means}; any split gives the same gradient"
    expected = "on" if ask.checkpointing else "off"
    auto = f"auto will leave it {expected}" if not ask.checkpointing else "auto will turn it on"
    other = fits(facts, Ask(**{**ask.__dict__, "checkpointing": not ask.checkpointing}))
    less = f"; with it {'off' if ask.checkpointing else 'on'} a step would need {size(other.total)}"
    size_sources = ("qlora", "belle") if facts.objective == "sft" else ("zephyr",)
    return (
        Advice(
            key="train.per_device_train_batch_size", value=ask.batch, reason=why, sources=("memory",), sure=_sure(facts)
        ),
        Advice(
            key="train.gradient_accumulation_steps",
            value=step // ask.batch,
            reason=f"{so} (QLoRA takes 16 rows, BELLE 32 to 128)" if facts.objective == "sft" else f"{so} (Zephyr: 32)",
            sources=size_sources,
            sure="fair" if facts.data else "low",
        ),
        Advice(
            key="train.gradient_checkpointing",
            value="auto",
            reason=f"{auto}{less}; it measures again before the run",
            sources=("memory",),
            sure=_sure(facts),
            means=(ask.checkpointing,),
        ),
    )


def _sure(facts: Facts) -> Sure:
    return "high" if facts.model.counted == "layers" and facts.data else "fair"
