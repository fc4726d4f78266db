# SPDX-License-Identifier: Apache-2.0
"""`axes` of a study: a grid over recipe keys, each point a variant with a readable name.

    axes: {method.r: [4, 16], method.use_rslora: [false, true]}       r4, r4-rslora, r16, r16-rslora
    axes: {data.train: {rows300: [...], rows1200: [...]}}             values with names of their own

A name is made of the values alone, so adding a value to an axis renames nothing that has run. With `variants` each
variant is crossed with the grid: `full-rows300`. Two points that would share a name are written out: `r=4+bias=all`.
"""

from __future__ import annotations

import json
import re
from itertools import product
from typing import Any

from luthier.core.errors import RecipeError
from luthier.recipe.fingerprint import flat
from luthier.recipe.text import said

NAME = re.compile(r"[A-Za-z0-9][\w.+=-]*")
Tree = dict[str, Any]
Axes = dict[str, Any]

_SHORT = {
    "learning_rate": "lr",
    "lora_alpha": "alpha",
    "num_train_epochs": "epochs",
    "max_steps": "steps",
    "per_device_train_batch_size": "batch",
    "gradient_accumulation_steps": "accumulation",
}


def expand(variants: dict[str, Tree], axes: Axes) -> dict[str, Tree]:
    """Cross variants with a grid.

    Args:
        variants: Name -> what differs; none for the grid alone.
        axes: Recipe key -> a list of values, or name -> value.

    Returns:
        Name -> what differs; the variants as they are where there are no axes.

    Raises:
        RecipeError: An axis is empty, holds a value twice, a value that needs a name, or a key that a variant sets too.

    Example:
        >>> list(expand({}, {"method.r": [4, 16], "method.use_rslora": [False, True]}))
        ['r4', 'r4-rslora', 'r16', 'r16-rslora']
        >>> expand({"full": {"method": "full"}}, {"optim.learning_rate": [0.001]})
        {'full-lr0.001': {'method': 'full', 'optim.learning_rate': 0.001}}
    """
    if not axes:
        return dict(variants)
    points = grid(axes, "study axes")
    for key in axes:
        for name, tree in variants.items():
            if clash := next((given for given in flat(tree) if _overlap(given, key)), None):
                where = f"study variants.{name}"
                raise RecipeError(where, f"{clash!r} is on the axis {key!r}", "one place says it", "remove one of them")
    if not variants:
        return points
    return {f"{name}-{point}": {**tree, **given} for name, tree in variants.items() for point, given in points.items()}


def grid(axes: Axes, where: str) -> dict[str, Tree]:
    """Name -> keys of every point of a grid; the last axis changes fastest.

    Args:
        axes: Recipe key -> a list of values, or name -> value.
        where: What messages call it.
    """
    values = [_values(key, given, where) for key, given in axes.items()]
    for write in (_readable, _with_leaf, _with_key):
        points: dict[str, Tree] = {}
        for chosen in product(*values):
            name = write(list(zip(axes, chosen, strict=True)))
            points[name] = {key: value for key, (_, value) in zip(axes, chosen, strict=True)}
        if len(points) == _count(values):
            return points
    raise RecipeError(where, "two points of one name", "values that differ when written", "name them: {name: value}")


def _count(values: list[list[tuple[str, Any]]]) -> int:
    count = 1
    for given in values:
        count *= len(given)
    return count


def _values(key: str, given: Any, where: str) -> list[tuple[str, Any]]:
    """(its own name or "", value) of each value of an axis."""
    at = f"{where}.{key}"
    if key.split(".")[0] in ("seed", "output_dir"):
        raise RecipeError(at, "set by the study", "keys of model, data, method, objective, optim, train", "remove it")
    if not isinstance(given, list | tuple | dict):
        raise RecipeError(at, f"received {said(given)}", "a list of values, or {name: value}", f"write [{given}]")
    if not given:
        raise RecipeError(at, "no value", "one value or more", "add values, or remove the axis")
    named = list(given.items()) if isinstance(given, dict) else [("", value) for value in given]
    for name, value in named:
        if name and not NAME.fullmatch(name):
            raise RecipeError(at, f"name {name!r}", "letters, digits and . _ + = -", "give it another name")
        if not name and isinstance(value, list | tuple):
            raise RecipeError(at, "a list as a value", "values with names", f"write {key}: {{some-name: [...], ...}}")
    written = [json.dumps(value) for _, value in named]
    if twice := next((text for text in written if written.count(text) > 1), None):
        raise RecipeError(at, f"{twice} twice", "each value once", "remove one")
    return named


Chosen = list[tuple[str, tuple[str, Any]]]


def _readable(chosen: Chosen) -> str:
    words = [name or _word(key, value) for key, (name, value) in chosen]
    if not any(words):  # nothing but switches that are off
        words = [f"no-{_leaf(key).removeprefix('use_')}" for key, _ in chosen]
    return "-".join(word for word in words if word)


def _with_leaf(chosen: Chosen) -> str:
    return "+".join(f"{_leaf(key)}={name or _clean(value)}" for key, (name, value) in chosen)


def _with_key(chosen: Chosen) -> str:
    return "+".join(f"{key}={name or _clean(value)}" for key, (name, value) in chosen)


def _word(key: str, value: Any) -> str:
    """`r16`, `lr0.001`, `rslora` for a switch that is on, nothing for one that is off, text as it stands."""
    leaf = _leaf(key)
    if isinstance(value, bool):
        return leaf.removeprefix("use_") if value else ""
    if isinstance(value, int | float):
        return f"{_SHORT.get(leaf, leaf)}{_clean(value)}"
    if isinstance(value, dict):
        words = [_clean(below) if inner == "name" else _word(inner, below) for inner, below in value.items()]
        return "-".join(word for word in words if word)
    return f"{leaf}=none" if value is None else _clean(value)


def _clean(value: Any) -> str:
    """What a folder's name can hold; of a path its last part."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^\w.+=-]+", "-", text.rstrip("/").rpartition("/")[2]).strip("-")


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _overlap(one: str, other: str) -> bool:
    """Whether two dotted keys say the same thing, or one a part of the other; a variant's method may have an axis."""
    return one == other or one.startswith(f"{other}.")
