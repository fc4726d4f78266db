# SPDX-License-Identifier: Apache-2.0
"""Optimisers, one file each: what moves the parameters, and how many bytes of state it keeps for each number.

An entry defines

    make(groups, optim) -> torch.optim.Optimizer     groups as torch has them, `optim` the recipe's section
    state_bytes(optim) -> int                        of a trained number, for the estimate of memory
    PASSING_BYTES: dict[str, int]                    by device, if an update makes tensors in passing
    IMPORTED_BYTES: int                              if it brings a library: what that takes of a process
    check(optim)                                     if it needs a package: raises MissingExtra where that is absent

Its state are tensors and plain numbers by parameter, so that checkpoints hold all of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch

from luthier.core import registry
from luthier.engine.groups import resolve_groups, say_groups
from luthier.engine.rounding import check_weights
from luthier.engine.transformed import Transformed
from luthier.recipe.optimizers import KIND, entry_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from luthier.core.trainable import Trainable
    from luthier.recipe import Optim


def build_optimizer(optim: Optim, trainable: Trainable, twins: dict[str, torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Make the optimiser over all trained parameters.

    Args:
        optim: The recipe's section.
        trainable: Which parameters.
        twins: Name -> the parameter that the optimiser moves (a float32 master, or the parameter itself).

    Raises:
        RecipeError: Unknown optimiser, or groups that match nothing.
        MissingExtra: It is of a package that is not installed.
    """
    groups: list[dict[str, Any]] = [
        {
            "params": [twins[name] for name in group.parameters],
            "weight_decay": group.weight_decay,
            "lr_scale": group.scale,
        }
        for group in resolve_groups(optim, trainable)
    ]
    entry = _entry(optim)

    def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return cast("torch.optim.Optimizer", entry.make(groups, optim))

    if not trainable.transforms:
        return make(groups)
    return Transformed(groups, {id(twins[name]): t for name, t in trainable.transforms.items()}, make)


def check_optimizer(optim: Optim) -> None:
    """Find out before anything is loaded whether the optimiser is there.

    Raises:
        RecipeError: Unknown optimiser.
        MissingExtra: It is of a package that is not installed.
    """
    check = getattr(_entry(optim), "check", None)
    if check is not None:
        check(optim)


def tell_optim(optim: Optim, trainable: Trainable, say: Callable[[str], None]) -> None:
    """Say which parameters move how, where the recipe asks for more than one rate, and refuse what has no effect.

    Raises:
        RecipeError: A group matches nothing, or a key of `optim` has no effect on what trains.
    """
    check_weights(optim, trainable)
    say_groups(optim, trainable, say)
    if trainable.transforms:
        moved = f"{moved_numbers(trainable):,} numbers for {trainable.num_trainable:,} that train"
        say(f"  gradients of {len(trainable.transforms)} matrices are made smaller: the optimiser sees {moved}")


def state_bytes(optim: Optim) -> int:
    """Bytes of optimiser state for each number that it moves."""
    return int(_entry(optim).state_bytes(optim))


def passing_bytes(optim: Optim, device: str) -> int:
    """Bytes that an update makes in passing for each number of the parameter that it moves, on `cpu` or `cuda`."""
    return int(getattr(_entry(optim), "PASSING_BYTES", {}).get(device, 0))


def imported_bytes(optim: Optim) -> int:
    """Bytes of the libraries that an optimiser brings into a process."""
    return int(getattr(_entry(optim), "IMPORTED_BYTES", 0))


def optimizer_bytes(optim: Optim, trainable: Trainable) -> int:
    """Bytes of an optimiser's whole state, and of what a method's transforms keep beside it."""
    return state_bytes(optim) * moved_numbers(trainable) + transform_bytes(trainable)


def transform_bytes(trainable: Trainable) -> int:
    """Bytes that a method's transforms of gradients keep from step to step."""
    return sum(transform.state_bytes for transform in trainable.transforms.values())


def moved_numbers(trainable: Trainable) -> int:
    """Numbers that the optimiser moves: those that train, or that stand for them where gradients are made smaller."""
    shapes = {
        id(p): trainable.transforms[name].shape if name in trainable.transforms else p.shape
        for name, p in trainable.parameters().items()
    }
    return sum(math.prod(shape) for shape in shapes.values())


def _entry(optim: Optim) -> ModuleType:
    return registry.get(KIND, entry_of(optim.optim), "optim.optim")


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's rate, each with its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def clip(twins: dict[str, torch.nn.Parameter], max_norm: float) -> float:
    """Clip the global gradient norm (0: only measure it) and return the norm before clipping."""
    gradients = [p.grad for p in {id(p): p for p in twins.values()}.values() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if max_norm > 0:
        torch.nn.utils.clip_grads_with_norm_(
            [p for p in {id(p): p for p in twins.values()}.values() if p.grad is not None], max_norm, norm
        )
    return float(norm)
