# SPDX-License-Identifier: Apache-2.0
"""What GaLore and APOLLO share: a model that trains in place, and matrices in it whose gradients are made smaller."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from luthier.core.errors import RecipeError
from luthier.methods._in_place import train_in_place
from luthier.methods._keys import Names, Words
from luthier.models.heads import head_modules, unread
from luthier.models.targets import find_targets

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from transformers import PreTrainedModel

    from luthier.core.trainable import GradientTransform, Trainable


class ProjectedKeys(BaseModel):
    """The keys that both have, spelt as in transformers' `optim_args` and `optim_target_modules`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    rank: Annotated[int, Field(gt=0)] = 128
    """Rank of the projections; a matrix whose smaller side is less has that."""
    update_proj_gap: Annotated[int, Field(gt=0)] = 200
    """Steps that a projection is used for before it is made anew."""
    target_modules: Names = "all-linear"
    """Whose gradients are projected: name endings, a regular expression, or `all-linear`, `attention`, `mlp`."""
    exclude_modules: Names | None = None
    """Name endings, or a regular expression, of modules that are no targets."""
    layerwise: bool = False
    """Move each parameter in the backward pass and free its gradient: one micro-batch a step and no clipping."""
    only_targets: bool = False
    """Freeze every parameter but the targets' matrices (and a new head); else the others train plainly."""
    freeze: Words = ()
    """Parameters whose name contains one of these words stay as they are."""


def train_projected(
    model: PreTrainedModel,
    config: ProjectedKeys,
    method: str,
    make: Callable[[tuple[int, int], int, int], GradientTransform],
) -> Trainable:
    """Let a model train in place, with transforms of the targets' gradients.

    Args:
        model: Changed in place.
        config: The recipe's section.
        method: The method's key, for errors.
        make: The transform of one matrix, from its shape, a seed of this run, and its number among the targets.

    Raises:
        RecipeError: A key matches nothing, or nothing is left to train or to project. The model is then as it was.
    """
    left_out = tuple(f"{name}." for name in unread(model))
    named = {name: p for name, p in model.named_parameters() if not (left_out and name.startswith(left_out))}
    modules = find_targets(model, config.target_modules, exclude_modules=config.exclude_modules)
    matrices = {id(module.weight) for module in modules.values()}
    for word in config.freeze:
        if not any(word in name for name in named):
            raise RecipeError("method.freeze", f"{word!r} matches no parameter", fix="run `luthier inspect MODEL`")
    kept = {name: p for name, p in named.items() if not any(word in name for word in config.freeze)}
    if config.only_targets:
        heads = {id(p) for module in head_modules(model).values() for p in module.parameters()}
        kept = {name: p for name, p in kept.items() if id(p) in matrices | heads}
    targets = {name: p for name, p in kept.items() if id(p) in matrices}
    if not targets:
        fix = "freeze less, or choose other target_modules"
        raise RecipeError("method.freeze", "every target is frozen", "a matrix at least that trains", fix)
    trainable = train_in_place(model, kept, method)
    seed = int(torch.randint(1 << 62, ()))  # of the run's own seed, which is set before methods are applied
    transforms = {name: make(_sides(p), seed, place) for place, (name, p) in enumerate(targets.items())}
    return replace(trainable, transforms=transforms, layerwise=config.layerwise)


def _sides(matrix: nn.Parameter) -> tuple[int, int]:
    rows, columns = matrix.shape
    return rows, columns


def due(own: dict[str, Any], gap: int) -> bool:
    """Whether a projection is to be made now: at the first update, and after each `gap` of them; counts them."""
    own["updates"] = own.get("updates", -1) + 1
    return bool(own["updates"] % gap == 0)
