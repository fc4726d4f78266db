# SPDX-License-Identifier: Apache-2.0
"""Bytes of a training step by category and phase: the one estimate, of counts alone.

    load         the base, and what reading it takes
    reference    the base and one pass without gradient, where a reference is asked before the first step
    step         base + method + float32 masters + optimiser's state + gradients + activations + what passes by
    evaluation   the same without activations, and a pass without gradient
    save         the same, and a copy of nothing: files are written from where the numbers are

What is free is used again, by a GPU's allocator and by the arena of a CPU (`kernels.native.arena`): activations go
while gradients come, so the larger of both counts. Where the arena is not, glibc finds no use for blocks of other
sizes: both count, and gaps between them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from luthier.engine.optim import imported_bytes, passing_bytes, state_bytes
from luthier.engine.rounding import ROUNDING, transient
from luthier.kernels import native
from luthier.kernels.logprob import CHUNK_ELEMENTS, MIN_ROWS
from luthier.kernels.native import arena
from luthier.kernels.quantized import IMPORTED_BYTES
from luthier.models.threads import KEPT_SHAPES

if TYPE_CHECKING:
    from luthier.planning.counts import Counts
    from luthier.planning.work import Work
    from luthier.recipe import Optim

SHARE = 0.9  # of the free memory; the rest is for what no formula sees (allocator's gaps, workspaces)
# Libraries and Python's own objects: what a process that trains holds besides its tensors, above one that has imported
# everything. Of a GPU only tensors are counted. Measured (built-in model, four methods): 39 to 42 MiB.
FRAMEWORK = {"cpu": 40 << 20, "cuda": 0}
# What an update makes in passing comes while gradients stand where activations were: the room between them is too small
# for it. Measured with a 110 M: 98 to 224 MiB, which is one largest parameter and a fifth of it (131 to 188).
_LEFT_BY_UPDATE = 0.2
# oneDNN's machine code for the shapes of products (float32's too, where they are routed to it), of which
# `models.threads` keeps the last: 0.9 MiB each, and 5 to 8 for each micro-batch, as each has another number of tokens.
_SHAPE, _SHAPES = int(0.9 * (1 << 20)), 6
# glibc cannot reuse all that it gets back, as each step has other sizes (but for what is there once): the first steps
# leave 0.4 of the activations in gaps; the first 60 MiB of them leave 2.5 times more in 60 steps. The optimiser's
# state, which is made after the first backward pass, takes its place in the gaps. Fitted to 34 cases of
# benchmarks/plan.py without the arena, and to LoRA on the 3 M after 40 and 160 steps (322 and 367 MiB).
_GAPS, _GROWN, _GROWN_OF, _GROWN_STEPS = 0.4, 2.5, 60 << 20, 20
CONTEXT = {"cpu": 0, "cuda": 600 << 20}  # what a GPU's driver takes before the first tensor; not in any peak
LOGITS = 12  # bytes of one: log-softmax, its gradient and a copy in the head's type, in float32 (kernels.logprob)


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes on one device.

    Attributes:
        weights: The base as it is kept.
        adapters: What the method put beside it.
        masters: Float32 copies of trained weights of fewer bits.
        optimizer: The optimiser's state.
        gradients: Of all that trains, in float32.
        activations: Kept from the forward to the backward pass, by the largest micro-batch.
        logits: One chunk of them, with what becomes of it.
        passing: The backward pass through one layer, one quantised matrix made dense, a trained head's gradient.
        updating: What the optimiser makes in passing, and the room that it leaves.
        gaps: What glibc holds between pieces that are in use; none where the arena serves, or of a GPU.
        framework: What the process holds besides tensors.
        phases: The peak of each phase.
    """

    weights: int
    adapters: int
    masters: int
    optimizer: int
    gradients: int
    activations: int
    logits: int
    passing: int
    updating: int
    gaps: int
    framework: int
    phases: dict[str, int]

    @property
    def total(self) -> int:
        """The highest peak."""
        return max(self.phases.values())

    @property
    def held(self) -> int:
        """What is there before the first step: base and method."""
        return self.weights + self.adapters

    @property
    def growth(self) -> int:
        """What a run takes besides the model that is loaded."""
        return max(0, self.total - self.held)

    @property
    def states(self) -> int:
        """Gradients, float32 masters and the optimiser's state."""
        return self.gradients + self.masters + self.optimizer

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self) | {"total": self.total}


def need_of(
    counts: Counts,
    work: Work,
    optim: Optim,
    device: str,
    *,
    recomputed: int = 0,
    offloaded: int = 0,
    shards: tuple[int, int, int] = (1, 1, 1),
) -> Need:
    """Predict.

    Args:
        counts: The model with its method.
        work: What a step holds.
        optim: Which optimiser.
        device: `cpu` or `cuda`.
        recomputed: Layers that keep their input alone and run again in the backward pass.
        offloaded: Layers whose activations wait in the host's memory.
        shards: Devices that share optimiser state and masters, gradients, weights (ZeRO stages 1, 2, 3).
    """
    of_states, of_gradients, of_weights = shards
    short = [numel for itemsize, some in counts.trained.items() if itemsize < 4 for numel in some]
    masters = 4 * (sum(short) if optim.weights == "float32" else transient(short))
    gradients = 4 * counts.gradients
    moved = counts.numbers if counts.moved is None else counts.moved
    optimizer = state_bytes(optim) * moved + counts.beside_state
    in_place = device == "cpu" and counts.bare_head and native.usable(torch.empty(0))
    each = counts.itemsize if in_place else LOGITS
    logits = each * counts.vocabulary * min(work.scored, _rows(counts.vocabulary))
    layer, activations = activations_of(counts, work, recomputed, offloaded)
    gathered = counts.weights // max(1, counts.layers) * 2 if of_weights > 1 else 0  # two layers are whole at a time
    found = Need(
        weights=counts.weights // of_weights,
        adapters=counts.added // of_weights,
        masters=masters // of_states,
        optimizer=optimizer // of_states,
        gradients=gradients // of_gradients,
        activations=activations,
        logits=logits,
        # a trained head's gradient is added up in float32, and exists in its own type beside an embedding's
        passing=layer + counts.dense + gathered + _head(counts) * (4 + counts.itemsize),
        updating=_updating(optim, counts, device),
        gaps=_gaps(activations - counts.kept.once, optimizer // of_states, work.steps) if breaks_up(device) else 0,
        framework=FRAMEWORK[device] + (_process(counts, work, optim) if device == "cpu" else 0),
        phases={},
    )
    return replace(found, phases=_phases(found, counts, work, device))


def activations_of(counts: Counts, work: Work, recomputed: int, offloaded: int) -> tuple[int, int]:
    """Bytes of one layer's backward pass, and of all that waits for it on the device."""
    every = counts.kept.per_token * work.tokens + counts.kept.once
    one = every // max(1, counts.layers)
    inputs = work.tokens * counts.hidden * counts.itemsize
    waiting = one * (counts.layers - recomputed - offloaded) if counts.layers else every
    waiting += inputs * recomputed + counts.kept.per_scored * work.scored
    return (one if recomputed or offloaded else one // 2), waiting


def _phases(need: Need, counts: Counts, work: Work, device: str) -> dict[str, int]:
    """The peak of each phase."""
    model = need.weights + need.adapters + need.framework
    forward = 8 * counts.hidden * counts.itemsize * max(work.eval_tokens, 0)
    phases = {"load": model}
    if work.asked_before:
        phases["reference"] = model + forward + need.logits
    static = model + need.masters + need.optimizer
    waiting = need.activations + need.gaps + max(need.logits, need.passing)
    if breaks_up(device) or work.micro_batches > 1:
        phases["step"] = static + need.gradients + waiting
    else:  # a trained head's gradient is the first that comes and the last that is complete
        phases["step"] = static + max(waiting + 4 * _head(counts), need.gradients + counts.itemsize * _head(counts))
    phases["step"] = max(phases["step"], static + need.gradients + need.updating)
    if work.eval_tokens:
        phases["evaluation"] = static + forward + need.logits
    phases["save"] = static
    return phases


def _head(counts: Counts) -> int:
    """Numbers of a head that trains; 0 where it does not."""
    whole = counts.vocabulary * counts.hidden
    return whole if any(whole in some for some in counts.trained.values()) else 0


def _updating(optim: Optim, counts: Counts, device: str) -> int:
    """What the optimiser makes in passing, of the largest parameter, and on a CPU the room that this leaves."""
    short = [numel for itemsize, some in counts.trained.items() if itemsize < 4 for numel in some]
    largest = max((numel for some in counts.trained.values() for numel in some), default=0)
    made = int(passing_bytes(optim, device) * largest)
    if optim.weights != "float32":
        made = max(made, int(ROUNDING * max(short, default=0)))
    return made + (4 * largest + int(_LEFT_BY_UPDATE * made) if made and device == "cpu" else 0)


def breaks_up(device: str) -> bool:
    """Whether freed memory is of little use to the next step: on a CPU without the arena."""
    return device == "cpu" and not arena.usable()


def _gaps(activations: int, state: int, steps: int) -> int:
    """What glibc holds between pieces that are in use, after so many steps."""
    activations = max(0, activations)
    grown = _GROWN * -math.expm1(-steps / _GROWN_STEPS) * min(activations, _GROWN_OF)
    return max(0, int(_GAPS * activations + grown) - state)


def _process(counts: Counts, work: Work, optim: Optim) -> int:
    """What a run brings into its process: libraries for base and optimiser, and machine code."""
    imported = max(IMPORTED_BYTES if counts.dense else 0, imported_bytes(optim))
    return imported + _SHAPE * min(KEPT_SHAPES, _SHAPES * work.passes)


def _rows(vocabulary: int) -> int:
    """Rows of a chunk of logits (`kernels.logprob`)."""
    return max(MIN_ROWS, CHUNK_ELEMENTS // vocabulary)
