# SPDX-License-Identifier: Apache-2.0
"""Does it fit? The one place where advice asks about memory: bytes of a training step against what there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.engine.flops import Rates
from luthier.planning.activations import Kept
from luthier.planning.case import DOUBLE_BITS
from luthier.planning.counts import Counts
from luthier.planning.free import size
from luthier.planning.need import CONTEXT, SHARE, Need, need_of
from luthier.planning.work import Work
from luthier.recipe import Optim
from luthier.recipe.rules import WHOLE

if TYPE_CHECKING:
    from luthier.advise.facts import Facts

_STEPS = 1_000  # of a run: after fewer a process may hold less
BITS = {"nf4": DOUBLE_BITS, "fp4": DOUBLE_BITS, "int8": 8.0}


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One way to train.

    Attributes:
        method: A name of `methods`.
        r: Rank, of LoRA.
        max_length: Tokens of a bin, or of an example.
        batch: Bins, or judged examples, in a micro-batch.
        checkpointing: Whether activations are computed again in the backward pass.
        quantization: What the frozen base is stored in.
    """

    method: str
    max_length: int
    r: int = 0
    batch: int = 1
    checkpointing: bool = False
    quantization: str = "none"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a run needs, and what there is.

    Attributes:
        need: The plan's bytes.
        memory: Bytes that there are, a GPU's driver left out.
    """

    need: Need
    memory: int

    @property
    def weights(self) -> int:
        """Bytes of the base."""
        return self.need.weights

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.need.total

    @property
    def ok(self) -> bool:
        """Whether it is at most the share of the memory that `gradient_checkpointing: auto` takes for full."""
        return self.total <= SHARE * self.memory

    def __str__(self) -> str:
        need = self.need
        parts = {"weights": need.weights, "trained": need.adapters + need.masters + need.optimizer}
        parts["activations, logits, gradients"] = self.total - sum(parts.values()) - need.framework
        parts["libraries"] = need.framework
        listed = " + ".join(f"{name} {size(value)}" for name, value in parts.items() if value)
        return f"{listed} = {size(self.total)} of {size(self.memory)}"


def fits(facts: Facts, ask: Ask) -> Fit:
    """Say what a run needs.

    Args:
        facts: Model, rows, machine.
        ask: How it would train.
    """
    model, device = facts.model, facts.machine.device
    whole = ask.method in WHOLE  # of freeze, GaLore and APOLLO more than they need: those of full fine-tuning
    head = model.vocabulary * model.hidden_size
    numbers = model.parameters if whole else model.per_rank * max(ask.r, 1)
    counts = Counts(
        parameters=model.parameters,
        weights=model.parameters * facts.itemsize,
        trained={facts.itemsize: (head, numbers - head)} if whole else {4: (numbers,)},
        added=0 if whole else 4 * numbers,
        itemsize=facts.itemsize,
        layers=model.layers,
        hidden=model.hidden_size,
        vocabulary=model.vocabulary,
        kept=Kept(model.saved_full if whole else model.saved_lora, 0),
        rates=Rates(per_token=0, per_scored=0, per_pair=0),
        linear=model.linear,
    )
    if ask.quantization != "none":
        counts = counts.quantised(BITS[ask.quantization])
    recomputed = model.layers if ask.checkpointing else 0
    need = need_of(counts, _work(_tokens(facts, ask)), Optim(), device, recomputed=recomputed)
    return Fit(need=need, memory=facts.machine.memory - CONTEXT[device])


def _work(tokens: int) -> Work:
    """Steps of two micro-batches of so many tokens, all of them scored: what accumulates stands beside activations."""
    return Work(
        tokens=tokens,
        scored=tokens,
        mean=tokens,
        micro_batches=2,
        steps=_STEPS,
        all_tokens=2 * _STEPS * tokens,
        all_scored=2 * _STEPS * tokens,
        all_pairs=0,
        passes=2 * _STEPS,
    )


def _tokens(facts: Facts, ask: Ask) -> int:
    """Tokens of the largest micro-batch: full bins, or the largest judged examples."""
    data = facts.data
    if data is None or not data.judged:
        return ask.batch * ask.max_length
    answers = max(2, -(-data.tree // max(1, data.longest)))
    return ask.batch * min(data.tree, answers * ask.max_length)
