# SPDX-License-Identifier: Apache-2.0
"""The proof that a policy starts as its reference: log-ratios are 0, and the loss is what it must be then."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from luthier.core.errors import RunFailed
from luthier.core.trainable import Gathering
from luthier.engine.reference import asked
from luthier.kernels.forest import plant
from luthier.models import outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.core.trainable import Objective, Trainable
    from luthier.core.types import Tree
    from luthier.engine.reference import Asked, Refer, Say
    from luthier.engine.rows import Rows

# Mean difference a token, in nats, that rounding may make between passes over the same tokens in other company. None
# was seen on CPUs (embedded models, 25 M Llama, bfloat16 and float32); GPU kernels choose by shape. Another model is
# off by 0.1 and more.
ROUNDING = {torch.bfloat16: 0.05, torch.float16: 0.02, torch.float32: 1e-3, torch.float64: 1e-6}
CHECKED = 8  # trees of the first step that are looked at


def prove_start(
    want: Asked, trainable: Trainable, objective: Objective, rows: Rows, refer: Refer | None, say: Say
) -> None:
    """Where the run starts from its reference, prove it on the first step's rows; elsewhere say that it does not.

    Raises:
        RunFailed: Policy and reference differ.
    """
    if not want.is_start(trainable):
        say(f"the policy does not start as its reference ({want.reference}): its first margins are not 0")
        return
    apart = check_start(trainable, objective, next(iter(rows.batches.step(0)), ()), refer)
    say(f"policy and reference are one before the first step (to {apart:.1e} nats a token)")


@torch.no_grad()
def check_start(trainable: Trainable, objective: Objective, trees: Sequence[Tree], refer: Refer | None) -> float:
    """Prove that the policy starts as its reference: log-ratios are 0, and the loss is what it must be then.

    Args:
        trainable: The policy before its first step.
        objective: Bound.
        trees: Of the first step; some are looked at. A rank may have no share of a small step, and so none.
        refer: Adds what the reference says, where trees do not carry it.

    Returns:
        The mean difference of a token, in nats.

    Raises:
        RunFailed: They differ by more than rounding.
    """
    if not trees:
        return 0.0
    model = trainable.model
    forest = plant(trees[:CHECKED]).to(next(model.parameters()).device)
    forest = forest if refer is None else refer(forest)
    with asked(model, nullcontext()):
        said = outputs(model, forest)
    assert forest.reference is not None
    apart = float((said - forest.reference).abs().mean()) if len(said) else 0.0
    bound = ROUNDING.get(next(model.parameters()).dtype, 1e-3)
    where = "the reference before the first step"
    fix = "objective.reference says which model it is; delete the cache's folder `references` if weights were replaced"
    if not apart <= bound:
        received = f"policy and reference differ by {apart:.2g} nats a token, so the margin is not 0"
        raise RunFailed(where, received, f"at most {bound:g}, which is rounding", fix)
    if isinstance(objective, Gathering):
        forest = replace(forest, step=objective.gather(said, forest))
    units, expected = objective.units(forest), objective.loss_at_start
    if expected is not None and units:
        loss = float(objective.loss(said, forest).total) / units
        if not abs(loss - expected) <= max(0.05, 0.05 * abs(expected)) or not math.isfinite(loss):
            raise RunFailed(where, f"the loss is {loss:.4f}", f"{expected:.4f} where policy and reference are one", fix)
    return apart
