# SPDX-License-Identifier: Apache-2.0
"""Which objective a foreign recipe means, and which of its keys that objective has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.errors import RecipeError, did_you_mean
from luthier.recipe.text import said

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.recipe.dialects._draft import Draft

_REFERENCE = ("reference", "precompute_ref_log_probs")
KEYS: dict[str, tuple[str, ...]] = {
    "sft": (),
    "dpo": (
        "beta",
        "loss_type",
        "label_smoothing",
        "f_divergence_type",
        "f_alpha_divergence_coef",
        "discopop_tau",
        "length_normalized",
        "sft_weight",
        *_REFERENCE,
    ),
    "ipo": ("beta", *_REFERENCE),
    "simpo": ("beta", "simpo_gamma", "label_smoothing", "sft_weight"),
    "kto": ("beta", "loss_type", "desirable_weight", "undesirable_weight", *_REFERENCE),
    "orpo": ("beta",),
    "cpo": ("beta", "loss_type", "label_smoothing", "cpo_alpha"),
    "reward": ("center_rewards_coefficient",),
}
LOSSES = ("sigmoid", "hinge", "robust", "exo_pair", "nca_pair", "apo_zero", "apo_down", "sppo_hard", "discopop")


def settle(draft: Draft, name: str, keys: Mapping[str, str], because: str) -> None:
    """Set the objective, and each of its keys that the recipe gives.

    Args:
        draft: The recipe.
        name: The objective.
        keys: The dialect's key -> the objective's own.
        because: What told the objective, for the note.
    """
    draft.put("objective.name", name)
    draft.note(f"objective {name}: {because}")
    if name != "sft":
        draft.note("a row whose answer does not fit into data.max_length is refused and counted, not cut as there")
    for key, own in keys.items():
        value = draft.take(key)
        if value is None:
            draft.ignore(key)
        elif own in KEYS[name]:
            draft.put(f"objective.{own}", value, key)
        elif not value:  # 0, false: off, which is what an objective without the key does
            draft.ignore(key)
        else:
            others = ", ".join(other for other, owned in KEYS.items() if own in owned)
            draft.refuse(key, f"objective {name} has no such key", f"{own} belongs to {others}", "remove it")


def overridden(draft: Draft) -> str | None:
    """The objective that an override names.

    Raises:
        RecipeError: It is none that can be translated to; all other keys depend on it.
    """
    name = draft.asked.objective
    if name is not None and name not in KEYS:
        raise RecipeError("objective", f"received {said(name)}", did_you_mean(name, KEYS), "choose one of these")
    return name


def of_folder(file: str | None) -> str | None:
    """The objective that a recipe's file or folder is named after; the nearest name counts.

    Example:
        >>> of_folder("recipes/zephyr-141b/orpo/config_full.yaml"), of_folder("recipes/zephyr/config.yaml")
        ('orpo', None)
    """
    for part in reversed(Path(file).parts if file else ()):
        for word in re.split(r"[^a-z0-9]+", part.lower()):
            if word in KEYS:
                return word
    return None
