# SPDX-License-Identifier: Apache-2.0
"""`method` with its keys, and what the frozen base is stored in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.advise.choice import RANKS, asked_rank, choose, millions, wants_full
from luthier.advise.steps import step_size
from luthier.advise.value import Advice

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from luthier.advise.choice import Choice
    from luthier.advise.facts import Facts
    from luthier.advise.value import Sure

FADES = 16  # above this rank alpha / r is below 1 at alpha 16, and the update fades
ALPHA = 16
SMALL = 30_000_000  # parameters up to which our studies' 3 M are a size like this


def advise(facts: Facts, chosen: Mapping[str, Any]) -> tuple[Advice, ...]:
    """Choose the method that fits, and LoRA's keys where it is LoRA."""
    length = chosen["data.max_length"]
    choice = choose(facts, length, step_size(facts, length))
    rows = [_name(facts, choice)]
    if choice.ask.quantization != "none":
        rows.append(_quantization(choice))
    if choice.ask.method == "lora":
        rows += _lora(facts, choice)
    return tuple(rows)


def _name(facts: Facts, choice: Choice) -> Advice:
    name, data = choice.ask.method, facts.data
    if facts.method is not None:
        return Advice(key="method.name", value=name, reason="you named it", sources=("recipe",), sure="high")
    if name == "full":
        much = f"{millions(data):,.0f} M tokens" if data and data.text else f"{data.rows if data else 0:,} rows"
        reason = (
            f"{much} and the memory for it: on 0.6 M rows and more it scored 0.10 above LoRA r=8 on a raw 7B, and LoRA "
            "learned less of code and mathematics; it took 2 to 4 times the time"
        )
        return Advice(key="method.name", value=name, reason=reason, sources=("belle", "forgets"), sure="fair")
    if wants_full(data):
        reason = "full fine-tuning would learn more of so many rows, and does not fit here"
        sources: tuple[str, ...] = ("memory", "belle", "forgets")
        return Advice(key="method.name", value=name, reason=reason, sources=sources, sure="fair")
    reason = (
        "on the built-in 3 M model no difference to full was seen at tuned rates (0.729, 0.746, p 0.66); methods with "
        "fewer numbers were worse; LoRA needs a fraction of the state and forgets less"
    )
    small = facts.model.parameters <= SMALL
    if not small:
        reason += "; a raw 7B scored 0.10 more in full, on 600,000 rows: for fewer rows we know of no such comparison"
    if facts.model.chats:
        reason += "; there is a chat template: if the base is tuned already, BELLE saw LoRA close to full"
    sources = ("study-methods", "forgets") if small and not facts.model.chats else ("study-methods", "forgets", "belle")
    return Advice(key="method.name", value=name, reason=reason, sources=sources, sure="fair" if small else "low")


def _quantization(choice: Choice) -> Advice:
    reason = f"the base does not fit in 16 bits: {choice.fit}; NF4 with LoRA on all linears matched 16 bits"
    key, value = "model.quantization", choice.ask.quantization
    return Advice(key=key, value=value, reason=reason, sources=("memory", "qlora"), sure="fair")


def _lora(facts: Facts, choice: Choice) -> Iterator[Advice]:
    r = choice.ask.r
    yield _rank(facts, choice)
    alpha = "fixed: with Adam it is much the same as the rate, which is tuned instead; QLoRA and our studies keep 16"
    yield Advice(
        key="method.lora_alpha", value=ALPHA, reason=alpha, sources=("lora", "qlora", "study-rank"), sure="fair"
    )
    if r > FADES:
        gamma = ALPHA / r**0.5
        why = f"alpha / r fades: at one rate r=256 gained 0.361, at tuned rates 0.059 (ours, 3 M); gamma is {gamma:g}"
    else:
        why = f"alpha / r is {ALPHA / r:g} at this rank, which does not fade"
    yield Advice(key="method.use_rslora", value=r > FADES, reason=why, sources=("rslora", "study-rank"), sure="fair")
    reason = "QLoRA needed all linears to match full fine-tuning; attention alone was 0.046 lower in ours (3 M, p 0.22)"
    sources = ("qlora", "study-methods")
    yield Advice(key="method.target_modules", value="all-linear", reason=reason, sources=sources, sure="fair")
    if facts.model.exclude:
        reason = "all-linear cannot reach these (stacked experts), or a rank above their side would not fit"
        value = list(facts.model.exclude)
        yield Advice(key="method.exclude_modules", value=value, reason=reason, sources=("model",), sure="high")


def _rank(facts: Facts, choice: Choice) -> Advice:
    r, data = choice.ask.r, facts.data
    share = facts.model.per_rank * r / facts.model.parameters
    trains = f"{facts.model.per_rank * r:,} numbers train ({share:.2%})"
    sources: tuple[str, ...] = ("lora", "qlora", "study-rank")
    if choice.lowered:
        why = f"rows ask for {choice.wished}, which does not fit; at tuned rates rank gained nothing in our study"
        sources = ("memory", "study-rank")
    elif data is None:
        why = "no rows were named; 16 served from 3 M (ours) to 7B (the handbook)"
        sources = ("study-methods", "handbook")
    elif data.judged:
        why = f"{data.rows:,} judged rows: 16 in our study of 1,000; the handbook takes 128 for 60,000"
        sources = ("study-preference", "handbook")
    elif data.text:
        why = f"{millions(data):,.1f} M tokens of plain text: going on pretraining wants rank, up to 256"
        sources = ("forgets", "rslora")
    elif data.rows < (RANKS[1][0] or 0):
        why = f"{data.rows:,} rows: r = 4 to 256 scored alike at tuned rates (ours, 3 M), as in QLoRA"
    else:
        why = f"{data.rows:,} rows: QLoRA took 64, and code and mathematics gained up to 256"
        sources = ("qlora", "forgets", "rslora")
    if choice.wished < asked_rank(data):
        why += f"; the smallest linear has a side of {facts.model.smallest}, which r cannot exceed"
    sure: Sure = "low" if data is None or choice.lowered else "fair"
    return Advice(key="method.r", value=r, reason=f"{why}; {trains}", sources=sources, sure=sure)
