# SPDX-License-Identifier: Apache-2.0
"""Lists of entries for people and as JSON, and the keys of one of them."""

from __future__ import annotations

import json
from typing import Any

from luthier.core import registry


def show_list(kind: str, *, as_json: bool) -> None:
    """Print every entry of a kind with the first line of its help."""
    known = registry.entries(kind)
    if as_json:
        print(json.dumps([{"name": name, "help": text} for name, text in known.items()], ensure_ascii=False))
        return
    width = max(map(len, known))
    for name, text in known.items():
        print(f"{name:<{width}}  {text}")


def show_one(kind: str, name: str, *, as_json: bool) -> None:
    """Print one entry's help and the keys that a recipe may give it.

    Raises:
        RecipeError: There is no such entry.
    """
    from luthier.recipe.describe import keys_of

    module = registry.get(kind, name)
    keys = keys_of(module.Config)
    if as_json:
        told: dict[str, Any] = {"name": name, "help": (module.__doc__ or "").strip(), "keys": keys}
        print(json.dumps(told, ensure_ascii=False))
        return
    print((module.__doc__ or "").strip())
    print("\nKeys:" if keys else "\nIt has no keys.")
    for key in keys:
        default = json.dumps(key["default"], ensure_ascii=False) if "default" in key else "required"
        print(f"\n  {key['key']}  ({key['values'].replace('`', '')}; default {default})\n      {key['meaning']}")
