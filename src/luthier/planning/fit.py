# SPDX-License-Identifier: Apache-2.0
"""Before a run: will it fit, and how many layers must keep less? What would not fit is refused.

`planning.layers` says what becomes of each layer's activations; here it is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from luthier.core.errors import RecipeError
from luthier.models.recomputing import one_by_one, recompute_layers, repeated_layers
from luthier.planning.counts import count
from luthier.planning.free import free_bytes, size
from luthier.planning.layers import KEY, Layers, choose, host_bytes
from luthier.planning.need import SHARE, Need, need_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from luthier.core.trainable import Trainable
    from luthier.planning.counts import Counts
    from luthier.planning.work import Work
    from luthier.recipe import Recipe

    Say = Callable[[str], None]

FORCE = "train.skip_memory_check"


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """How a run goes into its memory.

    Attributes:
        counts: The model with its method.
        need: What a step needs.
        layers: What becomes of each layer's activations.
        host_bytes: Of the host's pinned memory.
    """

    counts: Counts
    need: Need
    layers: Layers
    host_bytes: int = 0


def fit_memory(
    recipe: Recipe,
    trainable: Trainable,
    work: Work,
    say: Say,
    free: int | None = None,
    *,
    ranks: int = 1,
    remedies: Callable[[], str] | None = None,
) -> Fitted:
    """Decide which layers are recomputed, turn that on, and refuse a run that would not fit.

    Args:
        recipe: Its `train.gradient_checkpointing` decides.
        trainable: The model with its method, on its device.
        work: What a step holds.
        say: Told that layers are recomputed, and for `auto` the numbers.
        free: Bytes that a step may take besides the model; by default what the machine has free.
        ranks: Processes of this run on the machine: on a CPU they share what is free.
        remedies: Says what would make it fit; asked for where it does not.

    Raises:
        RecipeError: What is asked for is not to be had of the architecture or the device; or the run does not fit.
    """
    model: Any = trainable.model
    device, wanted = model.device.type, recipe.train.gradient_checkpointing
    if free is None and (free := free_bytes(model.device)) is not None and device == "cpu":
        free //= ranks
    counts, modules = count(trainable), repeated_layers(model)
    host = None if device == "cpu" else free_bytes(torch.device("cpu"))
    most = None if host is None else int(SHARE * host) // ranks

    def need(layers: Layers) -> Need:
        again, waiting = layers.recomputed, layers.offloaded
        return need_of(counts, work, recipe.optim, device, recomputed=again, offloaded=waiting)

    def waits(layers: Layers) -> bool:
        return most is None or host_bytes(layers, counts, work) <= most

    def fits(layers: Layers) -> bool:
        return free is None or (need(layers).growth <= int(SHARE * free) and waits(layers))

    singly = bool(modules) and one_by_one(modules) and len(modules) == counts.layers
    layers = choose(wanted, counts, device, None if free is None else fits, singly=singly)
    found = Fitted(counts=counts, need=need(layers), layers=layers, host_bytes=host_bytes(layers, counts, work))
    if most is not None and not waits(layers):
        raise RecipeError(KEY, f"{layers}, which takes {size(found.host_bytes)}", f"at most {size(most)}", "write true")
    if layers.again or wanted is True:
        _turn_on(model, modules, layers)
        why = f": {told(found.need)}, {size(free)} free" if wanted == "auto" and free is not None else ""
        say(f"gradient checkpointing is on{_where(layers)}{why}")
    if free is not None and found.need.growth > free and not recipe.train.skip_memory_check:
        raise does_not_fit(found.need, free, remedies() if remedies else "")
    return found


def _turn_on(model: Any, modules: list[torch.nn.Module], layers: Layers) -> None:
    """Let layers run again; of a model that knows all or none, all."""
    if layers.again in (0, layers.of) and not layers.offloaded:
        recompute_layers(model)
        return
    chosen = [modules[place] for place in layers.chosen]
    recompute_layers(model, layers=chosen, offloaded=chosen[: layers.offloaded])


def _where(layers: Layers) -> str:
    of = "" if layers.again >= layers.of else f" in {layers.again} of {layers.of} layers"
    waiting = "all" if layers.offloaded == layers.again else str(layers.offloaded)
    return f"{of}, inputs of {waiting} in the host's memory" if layers.offloaded else of


def does_not_fit(need: Need, free: int, fix: str) -> RecipeError:
    """The refusal."""
    received = f"a run that does not fit: {told(need)}"
    allowed = f"at most the {size(free)} that are free"
    return RecipeError("train", received, allowed, f"{fix or 'see `luthier plan`'}; or set {FORCE}: true")


def told(need: Need) -> str:
    """What a run takes besides its model, in words."""
    parts = {"activations": need.activations, "gradients and optimiser": need.states}
    parts |= {"one layer or logits": max(need.passing, need.logits), "gaps": need.gaps, "libraries": need.framework}
    listed = ", ".join(f"{name} {size(value)}" for name, value in parts.items() if value)
    return f"{listed}; together at the highest point {size(need.growth)}"
