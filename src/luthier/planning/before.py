# SPDX-License-Identifier: Apache-2.0
"""Before weights are read: a run that cannot fit is refused by its configuration alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.core.errors import LuthierError, RecipeError
from luthier.engine.precision import pick_device, pick_dtype
from luthier.planning.calibrate import here
from luthier.planning.case import Case, config_of, counts_of, reference_mode
from luthier.planning.fit import FORCE
from luthier.planning.free import free_bytes, size
from luthier.planning.moving import NOT_COUNTED, stored_bytes
from luthier.planning.need import CONTEXT
from luthier.planning.remedies import find_remedies, told_remedies
from luthier.planning.shadow import build
from luthier.planning.work import work_of
from luthier.recipe.tasks import task_of

if TYPE_CHECKING:
    import torch

    from luthier.engine.rows import Rows
    from luthier.recipe import Recipe

# Weights of less than this part of the free memory are read in seconds, and the loaded model is planned anyway
# (`planning.ahead`); the largest states are 8 times the weights (16 bytes of states for each of 2).
_LOOKED_AT = 16


def refuse_before(recipe: Recipe, rows: Rows) -> None:
    """Refuse a run whose plan does not fit into what is free; what cannot be counted is left to the loaded model.

    Args:
        recipe: Checked; `train.skip_memory_check` lets everything through.
        rows: As they are laid out.

    Raises:
        RecipeError: It does not fit.
    """
    device = pick_device()
    free = None if recipe.train.skip_memory_check else free_bytes(device)
    if free is None:
        return
    if device.type == "cpu":
        free //= rows.ranks.local_world
    case = _case(recipe, rows, device, free)
    if case is None:
        return
    need = case.need(case.layers())
    if need.total + CONTEXT[device.type] > free:
        parts = {"weights": need.held, "gradients and optimiser": need.states, "activations": need.activations}
        listed = ", ".join(f"{name} {size(value)}" for name, value in parts.items() if value)
        received = f"a run that does not fit: {listed}; together at the highest point {size(need.total)}"
        fix = told_remedies(find_remedies(case)) or "see `luthier plan`"
        raise RecipeError("train", received, f"at most the {size(free)} that are free", f"{fix}; or set {FORCE}: true")


def _case(recipe: Recipe, rows: Rows, device: torch.device, free: int) -> Case | None:
    """The run in numbers; None where its weights are small, or it is not counted."""
    dtype = pick_dtype(recipe.model.dtype, device.type)
    labels = None if rows.labels is None else len(rows.labels)
    name = str(dtype).removeprefix("torch.")
    try:
        config, _ = config_of(recipe, labels)
        bare = build(config, dtype, task_of(recipe), recipe.model.trust_remote_code)
        if stored_bytes(bare) * _LOOKED_AT < free:
            return None
        counts = counts_of(recipe, name, labels)
    except (*NOT_COUNTED, LuthierError):
        return None  # loading says why
    work = work_of(recipe, rows, reference_mode(recipe, rows, counts))
    return Case(recipe=recipe, counts=counts, work=work, machine=here(device, free), dtype=name)
