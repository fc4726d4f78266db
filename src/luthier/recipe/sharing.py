# SPDX-License-Identifier: Apache-2.0
"""Which runs can share one copy of their base: told from their recipes alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from luthier.core import registry
from luthier.recipe.tasks import task_of

if TYPE_CHECKING:
    from luthier.recipe.schema import Recipe


def why_alone(recipe: Recipe) -> str | None:
    """Why a run cannot share its base with others, or None."""
    method = registry.get("methods", recipe.method["name"])
    if not getattr(method, "SHARES_BASE", False):
        return f"method {recipe.method['name']} {getattr(method, 'ALONE', 'trains the base itself')}"
    if (task := task_of(recipe)) not in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        return f"task {task} gives the model another head"
    if recipe.train.torch_compile:
        return "train.torch_compile is on"
    if recipe.train.gradient_checkpointing not in (False, "auto"):
        return "train.gradient_checkpointing is on"
    return None


def base_of(recipe: Recipe) -> str:
    """What two runs must have in common to share a base, as one word: the model, and in which numbers."""
    told = recipe.model.model_dump(mode="json", exclude={"adapter_name_or_path"})
    if recipe.model.quantization != "none":  # which modules a quantised base keeps as they are
        told["whole"] = sorted(recipe.method.get("modules_to_save") or ())
    return json.dumps(told, sort_keys=True)
