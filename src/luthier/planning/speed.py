# SPDX-License-Identifier: Apache-2.0
"""Seconds of a run: of a pass that was timed here, or of operations and bytes on a machine that is only named.

timed    a forward and backward pass of a micro-batch as the run has it, on this machine: scaled by tokens
counted  operations / (devices x peak x utilisation), or the bytes of the weights / bandwidth if that is more;
         the update's bytes / bandwidth; the gradient's bytes over the links between devices
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from luthier.core.trainable import ParameterGroup
from luthier.engine.optim import build_optimizer
from luthier.kernels.forest import plant
from luthier.models import outputs
from luthier.planning.calibrate import best_of, timed
from luthier.planning.layers import Layers, again_flops, copying_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from luthier.core.trainable import Trainable
    from luthier.core.types import Tree
    from luthier.kernels.forest import Forest
    from luthier.planning.counts import Counts
    from luthier.planning.machines import Machine
    from luthier.planning.need import Need
    from luthier.planning.work import Work
    from luthier.recipe import Optim

TRIED = 4  # micro-batches that are timed, at most
_ENOUGH = 1.0  # seconds of all after which no other is, if there were two
_LONG = 5.0  # seconds of one that need no second
_TRIED_NUMBERS = 8 << 20  # numbers that a timed update moves at most; more take as long for each


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What was timed here.

    Attributes:
        passing: Seconds of a forward and backward pass, for each token.
        asking: Seconds of a forward pass without gradient, likewise.
        update: Seconds of the optimiser, for each number that trains.
    """

    passing: float
    asking: float
    update: float


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds of a run's training steps, start-up, evaluations and files left out.

    Attributes:
        step: Of one optimiser step in the mean.
        seconds: Of all.
        reference: Seconds before the first step, where a reference is asked.
        flops: Operations of all steps, as `engine.flops` counts them.
        told: How this was found.
    """

    step: float
    seconds: float
    reference: float
    flops: float
    told: str


def time_passes(trainable: Trainable, batches: Sequence[Sequence[Tree]], optim: Optim, *, asked: bool) -> Timed:
    """Time passes of a model with its method; gradients and random numbers are left as they were.

    Args:
        trainable: On its device.
        batches: Some micro-batches.
        optim: Whose update is timed.
        asked: Whether a reference is asked as well.
    """
    model: Any = trainable.model
    device = next(model.parameters()).device
    moving = list({id(p): p for p in trainable.parameters().values()}.values())

    def forward_and_backward(forest: Forest) -> None:
        found = outputs(model, forest)
        if found.requires_grad:
            torch.autograd.grad(found.sum(), moving, allow_unused=True)

    @torch.no_grad()
    def forward(forest: Forest) -> None:
        outputs(model, forest)

    forests = [plant(trees).to(device) for trees in batches]
    was_training = model.training
    model.train()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            passing = _per_token(forward_and_backward, forests, device)
            asking = _per_token(forward, forests[:1], device) if asked else 0.0
    finally:
        model.train(was_training)
    return Timed(passing=passing, asking=asking, update=_update(trainable, optim))


def _per_token(work: Callable[[Forest], None], forests: Sequence[Forest], device: torch.device) -> float:
    """Seconds of each token: each forest once, as in a run, where each has shapes that the libraries have not seen.

    The first one is a warm-up, unless it alone takes long enough.
    """
    spent, tokens = 0.0, 0
    for place, forest in enumerate(forests):
        seconds = timed(lambda forest=forest: work(forest), device)  # type: ignore[misc]
        if place == 1:
            spent, tokens = 0.0, 0
        spent, tokens = spent + seconds, tokens + forest.num_tokens
        if seconds >= _LONG or (place and spent >= _ENOUGH):
            break
    return spent / max(1, tokens)


def _update(trainable: Trainable, optim: Optim) -> float:
    """Seconds of an update for each number, by some parameters of the same shapes."""
    some: dict[str, torch.nn.Parameter] = {}
    numbers = 0
    device = next(iter(trainable.parameters().values())).device
    for name, parameter in trainable.parameters().items():
        if numbers and numbers + parameter.numel() > _TRIED_NUMBERS:
            continue
        numbers += parameter.numel()
        some[name] = torch.nn.Parameter(torch.zeros(parameter.shape, device=device))
        some[name].grad = torch.zeros_like(some[name])
    few = replace(trainable, groups=(ParameterGroup(parameters=some),))
    plain = optim.model_copy(update={"groups": (), "layer_decay": None, "loraplus_lr_ratio": None})
    optimizer = build_optimizer(plain.model_copy(update={"weights": "float32"}), few, some)
    return best_of(optimizer.step, device) / numbers


def timed_speed(found: Timed, counts: Counts, work: Work, layers: Layers | None = None) -> Speed:
    """Of a run on the machine that was timed.

    Args:
        found: The passes; as the run makes them, or with all activations kept.
        counts: The model with its method.
        work: What the run computes.
        layers: What becomes of activations that the timed passes kept; None: the passes were those of the run.
    """
    layers = layers or Layers(of=counts.layers)
    again = 1 + layers.share / in_forwards(counts)
    asked = found.asking * work.all_tokens
    update = found.update * counts.numbers * work.steps
    seconds = found.passing * again * work.all_tokens + update + copying_seconds(layers, counts, work)
    seconds += asked if work.asked_in_steps else 0.0
    return Speed(
        step=seconds / max(1, work.steps),
        seconds=seconds,
        reference=asked if work.asked_before else 0.0,
        flops=_flops(counts, work),
        told="a pass timed here",
    )


def counted_speed(counts: Counts, work: Work, need: Need, machine: Machine, dtype: str, layers: Layers) -> Speed:
    """Of a run on a machine that is named, all of whose devices share each step."""
    rate = machine.peak(dtype) * machine.utilisation
    ahead = 2.0 * counts.parameters * work.all_tokens  # a forward pass
    flops = _flops(counts, work)
    computed = flops + again_flops(layers, counts, work) + (ahead if work.asked_in_steps else 0.0)
    passes = work.steps * work.micro_batches
    read = passes * 3 * need.weights / machine.bandwidth  # the base once ahead, and twice on the way back
    moved = need.gradients + 2 * need.masters + 2 * need.optimizer + need.adapters
    update = work.steps * moved / machine.bandwidth
    linked = 0.0
    if machine.count > 1:
        linked = work.steps * 2 * need.gradients * (machine.count - 1) / machine.count / machine.link
    copied = copying_seconds(layers, counts, work) / machine.count
    seconds = max(computed / (rate * machine.count), read) + update + linked + copied
    return Speed(
        step=seconds / max(1, work.steps),
        seconds=seconds,
        reference=ahead / (rate * machine.count) if work.asked_before else 0.0,
        flops=flops,
        told=f"operations at {machine.utilisation:.0%} of {machine.peak(dtype) / 1e12:.3g} TFLOP/s ({machine.told})",
    )


def in_forwards(counts: Counts) -> float:
    """A whole pass in forward passes: 3 of full fine-tuning, about 2 of a frozen base."""
    return max(1.0, counts.rates.per_token / (2.0 * max(1, counts.parameters)))


def _flops(counts: Counts, work: Work) -> float:
    return float(counts.rates.total(work.all_tokens, work.all_scored, work.all_pairs, work.passes))
