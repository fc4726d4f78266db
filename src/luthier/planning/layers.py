# SPDX-License-Identifier: Apache-2.0
"""Which layers keep their activations, which run again in the backward pass, and whose inputs wait in the host.

`auto` takes the cheapest mix that fits, in this order: a kept layer costs nothing; one that is recomputed its forward
pass; one that is offloaded this and two copies of its input over the link to the host. Layers are offloaded only where
all are recomputed already, because a byte that is freed so costs more: with width 4096, bfloat16, 500 TFLOP/s and
25 GB/s a layer of 27 kept numbers for each unit of width frees 213 kB a token for 0.8 us by running again, and 8 kB
for 0.7 us by offloading its input. To offload all that it keeps, without running again, would take 18 us.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from luthier.core.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from luthier.planning.counts import Counts
    from luthier.planning.work import Work

KEY = "train.gradient_checkpointing"
HOST_LINK = 25e9  # bytes a second between a GPU and pinned memory: what PCIe 4.0 x16 reaches of its 32e9; assumed


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What becomes of the activations of each layer between the forward and the backward pass.

    Attributes:
        of: Layers in all.
        recomputed: Those that keep their input alone, and run again.
        offloaded: Those that run again too, and whose input waits in the host's memory.
        places: Which run again, where the recipe names them; None: the first ones, whose activations wait longest.
        why: In words.
    """

    of: int
    recomputed: int = 0
    offloaded: int = 0
    places: tuple[int, ...] | None = None
    why: str = ""

    @property
    def again(self) -> int:
        """Layers that run again."""
        return self.recomputed + self.offloaded

    @property
    def share(self) -> float:
        """Of the forward pass that is done again."""
        return self.again / max(1, self.of)

    @property
    def chosen(self) -> tuple[int, ...]:
        """The places of those that run again; the first of them are the offloaded ones."""
        return tuple(range(self.again)) if self.places is None else self.places

    def __str__(self) -> str:
        if not self.again:
            return "no layer runs again"
        some = "all layers run again" if self.again >= self.of else f"{self.again} of {self.of} layers run again"
        waiting = "all" if self.offloaded == self.again else str(self.offloaded)
        return f"{some}, inputs of {waiting} in the host's memory" if self.offloaded else some

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        kept = self.of - self.again
        told: dict[str, Any] = {"layers": self.of, "kept": kept, "recomputed": self.recomputed}
        return told | {"offloaded": self.offloaded, "places": list(self.chosen), "why": self.why}


def choose(
    wanted: Any, counts: Counts, device: str, fits: Callable[[Layers], bool] | None, *, singly: bool = True
) -> Layers:
    """Decide what becomes of each layer's activations.

    Args:
        wanted: The recipe's `train.gradient_checkpointing`.
        counts: The model with its method.
        device: `cpu` or `cuda`.
        fits: Whether a step fits so; None where nobody knows.
        singly: Whether some layers can run again and others not.

    Raises:
        RecipeError: The recipe asks for what the architecture or the device has not.
    """
    none = Layers(of=counts.layers)
    if wanted is False:
        return replace(none, why="the recipe says false")
    if wanted == "auto":
        return _cheapest(none, counts, device, fits, singly=singly)
    asked = list(wanted) if isinstance(wanted, tuple) else str(wanted).lower()
    if not counts.recomputes:
        raise RecipeError(KEY, f"{asked}, and the model cannot recompute its layers", "auto or false", "remove it")
    if not singly and wanted is not True:
        received = f"{asked}, and the model can recompute all of its layers or none"
        raise RecipeError(KEY, received, "auto, true or false", "write true")
    why = f"the recipe says {asked}"
    if wanted == "offload":
        if device == "cpu":
            received = "offload, and the run is on a CPU, whose memory is the host's already"
            raise RecipeError(KEY, received, "auto, true, false, a share or a list of layers", "write true")
        return replace(none, offloaded=counts.layers, why=why)
    if isinstance(wanted, tuple):
        if max(wanted) >= counts.layers:
            received, allowed = f"layer {max(wanted)}", f"0 to {counts.layers - 1}: it has {counts.layers} layers"
            raise RecipeError(KEY, received, allowed, "count layers from 0")
        return replace(none, recomputed=len(wanted), places=wanted, why=why)
    recomputed = counts.layers if wanted is True else math.ceil(wanted * counts.layers)
    return replace(none, recomputed=recomputed, why=why)


def _cheapest(
    none: Layers, counts: Counts, device: str, fits: Callable[[Layers], bool] | None, *, singly: bool
) -> Layers:
    """The first mix that fits, in the order of what they cost; where none does, the one that takes the least."""
    if not counts.recomputes:
        return replace(none, why="the model cannot recompute its layers")
    if fits is None:
        return replace(none, why="the system does not tell how much memory is free")
    mix = none
    for mix in _mixes(none, device, singly=singly):
        if fits(mix):
            return replace(mix, why="auto: as few as fit" if mix.again else "auto: it fits as it is")
    return replace(mix, why="auto: not even this fits")


def _mixes(none: Layers, device: str, *, singly: bool) -> Iterator[Layers]:
    yield none
    for recomputed in range(1, none.of + 1) if singly else (none.of,):
        yield replace(none, recomputed=recomputed)
    if device != "cpu" and singly:
        for offloaded in range(1, none.of + 1):
            yield replace(none, recomputed=none.of - offloaded, offloaded=offloaded)


def host_bytes(layers: Layers, counts: Counts, work: Work) -> int:
    """Pinned memory of the host that inputs take; torch pins powers of two."""
    one = work.tokens * counts.hidden * counts.itemsize
    return layers.offloaded * (1 << max(0, one - 1).bit_length())


def again_flops(layers: Layers, counts: Counts, work: Work) -> float:
    """Operations of layers that run again, in the whole run."""
    return 2.0 * counts.parameters * work.all_tokens * layers.share


def copying_seconds(layers: Layers, counts: Counts, work: Work) -> float:
    """Seconds of the whole run in which inputs go to the host and come back; the copies are in the way of the rest."""
    return 2.0 * layers.offloaded * work.all_tokens * counts.hidden * counts.itemsize / HOST_LINK
