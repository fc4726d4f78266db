# SPDX-License-Identifier: Apache-2.0
"""A recipe's plan: bytes by category and phase, seconds, the largest batch, and what would make it fit.

From the configuration alone: weights are not read, and need not be there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from luthier.planning.case import Case, speed_of
from luthier.planning.layers import again_flops, host_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from luthier.planning.layers import Layers
    from luthier.planning.need import Need
    from luthier.planning.speed import Speed
    from luthier.planning.work import Work

    Say = Callable[[str], None]

# ZeRO's stages: which of optimiser state and masters, gradients, weights all devices share.
LAYOUTS = {"data parallel": 0, "ZeRO-1": 1, "ZeRO-2": 2, "ZeRO-3 (FSDP)": 3}


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One way to make a run fit.

    Attributes:
        keys: What to change in the recipe.
        peak_memory_bytes: With it.
        seconds: Of the run with it.
        slower: Times as long as without.
    """

    keys: dict[str, Any]
    peak_memory_bytes: int
    seconds: float
    slower: float

    def __str__(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.keys.items())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will take.

    Attributes:
        case: What it was worked out from.
        need: Bytes on each device.
        layers: What becomes of each layer's activations, and why.
        speed: Seconds.
        fits: Whether each device holds it.
        largest_batch: The largest `per_device_train_batch_size` that fits; 0 where none does.
        layouts: Peak on each device where devices share more than the step, by layout; arithmetic alone, but for
            data parallel: Luthier shards nothing.
        remedies: Where it does not fit: the cheapest ways to make it.
        notes: What the numbers rest on.
    """

    case: Case
    need: Need
    layers: Layers
    speed: Speed
    fits: bool
    largest_batch: int
    layouts: dict[str, int]
    remedies: tuple[Remedy, ...]
    notes: tuple[str, ...]

    @property
    def peak_memory_bytes(self) -> int:
        """On each device; on a CPU above the process before it loads anything."""
        return self.need.total

    @property
    def seconds(self) -> float:
        """Of the training steps."""
        return self.speed.seconds

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        case, counts = self.case, self.case.counts
        return {
            "fits": self.fits,
            "peak_memory_bytes": self.peak_memory_bytes,
            "memory": self.need.to_json(),
            "seconds": self.seconds,
            "seconds_per_step": self.speed.step,
            "reference_seconds": self.speed.reference,
            "flops": self.speed.flops,
            "flops_per_step": self.speed.flops / max(1, case.work.steps),
            "time_told": self.speed.told,
            "machine": case.machine.to_json(),
            "dtype": case.dtype,
            "activations": self.layers.to_json(),
            "host_memory_bytes": host_bytes(self.layers, counts, case.work),
            "recomputed_flops": again_flops(self.layers, counts, case.work),
            "total_parameters": counts.parameters,
            "trainable_parameters": counts.numbers,
            "counted": counts.counted,
            "steps": case.work.steps,
            "tokens": case.work.all_tokens,
            "largest_micro_batch": {"tokens": case.work.tokens, "scored": case.work.scored},
            "largest_batch": self.largest_batch,
            "layouts": self.layouts,
            "remedies": [
                {"keys": r.keys, "peak_memory_bytes": r.peak_memory_bytes, "seconds": r.seconds, "slower": r.slower}
                for r in self.remedies
            ],
            "notes": list(self.notes),
        }


def plan_of(case: Case, *, remedies: tuple[Remedy, ...] = ()) -> Plan:
    """Work out a plan."""
    layers = case.layers()
    need = case.need(layers)
    layouts = {}
    if case.machine.count > 1:
        layouts = {name: case.need(layers, stage).total for name, stage in LAYOUTS.items()}
    return Plan(
        case=case,
        need=need,
        layers=layers,
        speed=speed_of(case, need, layers),
        fits=case.fits(need),
        largest_batch=_largest_batch(case),
        layouts=layouts,
        remedies=remedies,
        notes=tuple(_notes(case)),
    )


def _largest_batch(case: Case) -> int:
    """The largest micro-batch that fits, recomputing as the recipe allows."""
    size = case.recipe.train.per_device_train_batch_size

    def fits(batch: int) -> bool:
        other = replace(case, work=batched(case.work, batch / size))
        return other.fits(other.need(other.layers()))

    if not fits(1):
        return 0
    low, high = 1, 2
    while high <= 1 << 14 and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def batched(work: Work, factor: float) -> Work:
    """The same rows in micro-batches so many times as large; steps stay what they are."""
    grown = {name: max(1, round(getattr(work, name) * factor)) for name in ("tokens", "scored")}
    return replace(work, **grown, mean=work.mean * factor)


def _notes(case: Case) -> list[str]:
    notes = [f"time: {case.machine.told}"]
    if case.machine.count > 1:
        notes.append(
            "ZeRO and FSDP are arithmetic: Luthier itself runs data parallel, every device with the whole model"
        )
    if case.work.estimated:
        notes.append("tokens are the built-in tokenizer's: the model has none here, and its own are fewer")
    if case.machine.device == "cpu":
        notes.append("memory is what the process takes above its size before it loads anything")
    return notes
