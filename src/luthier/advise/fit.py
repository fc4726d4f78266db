# SPDX-License-Identifier: Apache-2.0
"""Does it fit? The one place where advice asks about memory: bytes of a training step against what there is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from luthier.engine.memory import SHARE, Need, need_of
from luthier.recipe import Optim
from luthier.recipe.rules import WHOLE

if TYPE_CHECKING:
    from luthier.advise.facts import Facts

# Bits of a number in NF4 with double quantisation: 4, and 0.127 for its block's scale (arXiv 2305.14314, section 3).
# `int8` keeps one float32 scale for each row of a matrix, which is nothing beside the row.
BITS = {"none": 0.0, "nf4": 4.127, "fp4": 4.127, "int8": 8.0}


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
    """What a step needs, and what there is.

    Attributes:
        weights: Bytes of the base.
        need: What a step needs besides.
        memory: Bytes that there are.
    """

    weights: int
    need: Need
    memory: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.need.total

    @property
    def ok(self) -> bool:
        """Whether it is at most the share of the memory that `gradient_checkpointing: auto` takes for full."""
        return self.total <= SHARE * self.memory

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "trained": self.need.states,
            "activations": self.need.activations + self.need.gaps,
            "one layer and logits": self.need.passing,
        }
        listed = " + ".join(f"{name} {size(value)}" for name, value in parts.items())
        return f"{listed} = {size(self.total)} of {size(self.memory)}"


def fits(facts: Facts, ask: Ask) -> Fit:
    """Say what a training step needs.

    Args:
        facts: Model, rows, machine.
        ask: How it would train.
    """
    model = facts.model
    if ask.quantization == "none":
        weights = model.parameters * facts.itemsize
    else:
        packed = int(model.linear * BITS[ask.quantization] / 8)
        weights = packed + (model.parameters - model.linear) * facts.itemsize
    tokens = _tokens(facts, ask)
    whole = ask.method in WHOLE  # of freeze, GaLore and APOLLO more than they need: those of full fine-tuning
    saved = (model.saved_full if whole else model.saved_lora) * tokens
    if ask.checkpointing:  # the inputs of all layers, and one layer whole while it is computed again
        saved = min(saved, tokens * model.hidden_size * model.layers * facts.itemsize + saved // model.layers)
    numbers = model.parameters if whole else model.per_rank * max(ask.r, 1)
    short = numbers if whole and facts.itemsize < 4 else 0  # adapters are float32
    need = need_of(
        numbers=numbers,
        short=[short],
        activations=saved,
        layers=1 if ask.checkpointing else model.layers,
        vocabulary=model.vocabulary,
        device=facts.machine.device,
        optim=Optim(),
    )
    if ask.checkpointing:
        need = replace(need, passing=need.passing - saved)  # that one layer is in `activations` already
    return Fit(weights=weights, need=need, memory=facts.machine.memory)


def _tokens(facts: Facts, ask: Ask) -> int:
    """Tokens of the largest micro-batch: full bins, or the largest judged examples."""
    data = facts.data
    if data is None or not data.judged:
        return ask.batch * ask.max_length
    answers = max(2, -(-data.tree // max(1, data.longest)))
    return ask.batch * min(data.tree, answers * ask.max_length)


def size(count: int) -> str:
    """Bytes in words.

    Example:
        >>> size(24 << 30), size(5 << 20)
        ('24.0 GiB', '5.0 MiB')
    """
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"
