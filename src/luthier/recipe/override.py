# SPDX-License-Identifier: Apache-2.0
"""Words of the form `key=value`, and where in a tree they go."""

from __future__ import annotations

from typing import Any

import yaml

from luthier.core.errors import RecipeError
from luthier.recipe.text import parse, said


def parse_override(word: str) -> tuple[str, Any]:
    """Split a word into its dotted key and its value, which is read as YAML.

    Raises:
        RecipeError: It is no `key=value`.

    Example:
        >>> parse_override("method.r=16")
        ('method.r', 16)
    """
    key, sign, value = word.partition("=")
    if not sign or not all(key.split(".")):
        raise RecipeError(
            f"override {word!r}", "no key=value", "a dotted key, '=' and a value", "write it as in method.r=16"
        )
    try:
        return key, parse(value)
    except yaml.YAMLError:
        return key, value  # `data.system=He said: "go"` is meant as text


def put(tree: dict[str, Any], path: list[str], value: Any, key: str) -> dict[str, Any]:
    """Return the tree with a value at the end of a path; sections on the way are made where they are missing.

    Args:
        tree: Left as it is.
        path: The steps of `key`.
        value: What to put there.
        key: What messages call the path.

    Raises:
        RecipeError: Something on the way is no section.

    Example:
        >>> put({"seed": 1}, ["method", "r"], 8, "method.r")
        {'seed': 1, 'method': {'r': 8}}
    """
    head, rest = path[0], path[1:]
    if not rest:
        return tree | {head: value}
    below = tree.get(head, {})
    if not isinstance(below, dict):
        raise RecipeError(
            f"override {key}", f"{head!r} holds {said(below)}", "a section", "override the whole key instead"
        )
    return tree | {head: put(below, rest, value, key)}
