# SPDX-License-Identifier: Apache-2.0
"""Before a run: will it fit, and how many layers must keep less? What would not fit is refused.

`gradient_checkpointing: auto` recomputes as few layers as it takes: each layer that runs again in the backward pass
costs its forward pass, so none does where everything fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.core.errors import RecipeError
from luthier.engine.regional import decoder_layers
from luthier.models.backbone import recompute_layers
from luthier.planning.counts import count
from luthier.planning.free import free_bytes, size
from luthier.planning.need import CONTEXT, SHARE, Need, need_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from luthier.core.trainable import Trainable
    from luthier.planning.counts import Counts
    from luthier.planning.work import Work
    from luthier.recipe import Optim, Recipe

    Say = Callable[[str], None]

FORCE = "train.skip_memory_check"


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """How a run goes into its memory.

    Attributes:
        counts: The model with its method.
        need: What a step needs.
        recomputed: Layers that run again in the backward pass.
    """

    counts: Counts
    need: Need
    recomputed: int


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
        RecipeError: Recomputing is asked for, and the architecture has none; or the run does not fit.
    """
    model: Any = trainable.model
    device, wanted = model.device.type, recipe.train.gradient_checkpointing
    if free is None and (free := free_bytes(model.device)) is not None and device == "cpu":
        free //= ranks
    counts = count(trainable)
    if wanted is True and not counts.recomputes:
        received = f"{type(model).__name__} cannot recompute its layers"
        raise RecipeError("train.gradient_checkpointing", received, "auto or false", "remove it")
    recomputed = 0
    if wanted is True:
        recomputed = counts.layers
    elif wanted == "auto" and counts.recomputes and free is not None:
        recomputed = fewest(counts, work, recipe.optim, device, int(SHARE * free))
    need = need_of(counts, work, recipe.optim, device, recomputed=recomputed)
    if recomputed or wanted is True:
        layers = decoder_layers(model)
        recompute_layers(model, layers=layers[:recomputed] if 0 < recomputed < len(layers) else None)
        of = "" if recomputed >= counts.layers else f" in {recomputed} of {counts.layers} layers"
        why = f": {told(need)}, {size(free)} free" if wanted == "auto" and free is not None else ""
        say(f"gradient checkpointing is on{of}{why}")
    if free is not None and need.growth > free and not recipe.train.skip_memory_check:
        raise does_not_fit(need, free, remedies() if remedies else "")
    return Fitted(counts=counts, need=need, recomputed=recomputed)


def fewest(counts: Counts, work: Work, optim: Optim, device: str, room: int, *, whole: bool = False) -> int:
    """The fewest layers that must be recomputed so that a step fits, or all of them where none do.

    Args:
        counts: The model with its method.
        work: What a step holds.
        optim: Which optimiser.
        device: `cpu` or `cuda`.
        room: Bytes that a step may take.
        whole: Whether the model itself counts too: it is not there yet.
    """
    for recomputed in range(counts.layers + 1):
        need = need_of(counts, work, optim, device, recomputed=recomputed)
        if (need.total + CONTEXT[device] if whole else need.growth) <= room:
            return recomputed
    return counts.layers


def does_not_fit(need: Need, free: int, fix: str) -> RecipeError:
    """The refusal."""
    received = f"a run that does not fit: {told(need)}"
    allowed = f"at most the {size(free)} that are free"
    return RecipeError("train", received, allowed, f"{fix or 'see `luthier plan`'}; or set {FORCE}: true")


def told(need: Need) -> str:
    """What a run takes besides its model, in words."""
    parts = {"activations": need.activations, "gradients and optimiser": need.states}
    parts |= {"one layer or logits": max(need.passing, need.logits), "gaps": need.gaps, "libraries": need.framework}
    listed = " + ".join(f"{name} {size(value)}" for name, value in parts.items() if value)
    return f"{listed} = {size(need.growth)}"
