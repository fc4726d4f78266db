# SPDX-License-Identifier: Apache-2.0
"""One short name for everything that can change a run's result."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.recipe.schema import Recipe

# Keys that move files or words around and cannot change a weight: they may differ when a run is resumed.
WITHOUT_EFFECT = {
    "output_dir",
    "train.hub_model_id",
    "train.hub_private_repo",
    "train.push_to_hub",
    "train.report_to",
    "train.logging_steps",
    "train.save_steps",
    "train.save_total_limit",
    "train.skip_memory_check",
}


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten a nested recipe into dotted keys; lists and empty mappings stay values.

    Example:
        >>> flat({"optim": {"learning_rate": 0.1}, "seed": 1})
        {'optim.learning_rate': 0.1, 'seed': 1}
    """
    if not isinstance(tree, dict) or (not tree and prefix):
        return {prefix: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def fingerprint(recipe: Recipe) -> str:
    """Hash a resolved recipe: 16 hexadecimal digits.

    Two recipes with the same fingerprint ask for the same weights: keys that only name files or trackers are left out.
    """
    keys = {k: v for k, v in flat(recipe.model_dump(mode="json")).items() if k not in WITHOUT_EFFECT}
    return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:16]
