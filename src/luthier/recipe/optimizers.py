# SPDX-License-Identifier: Apache-2.0
"""Names of optimisers: those of `engine/optim`, and what transformers, TRL, LLaMA-Factory and Axolotl call them."""

from __future__ import annotations

from luthier.core import registry
from luthier.core.errors import RecipeError, did_you_mean

KIND = "engine.optim"
SPELLINGS = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_bnb_8bit": "adamw_8bit",
    "lion_32bit": "lion",
}


def entry_of(name: str) -> str:
    """The entry of `engine/optim` that a recipe's `optim.optim` means.

    Raises:
        RecipeError: There is none.

    Example:
        >>> entry_of("adamw_torch"), entry_of("sgd")
        ('adamw', 'sgd')
    """
    known = registry.entries(KIND)
    found = SPELLINGS.get(name, name)
    if found not in known:
        received = f"unknown optimiser {name!r}"
        raise RecipeError("optim.optim", received, did_you_mean(name, {*known, *SPELLINGS}), "correct it")
    return found
