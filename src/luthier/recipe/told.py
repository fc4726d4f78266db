# SPDX-License-Identifier: Apache-2.0
"""What pydantic found wrong, in the words of a recipe: the key, the value received, what is allowed, what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from luthier.core.errors import RecipeError, did_you_mean
from luthier.recipe.text import one_line, said

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic_core import ErrorDetails

# pydantic's name of an error -> what the key allows; {…} is filled from the error's context
_ALLOWED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a section (key: value)",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
}


def told(errors: Sequence[ErrorDetails], schema: type[BaseModel], tree: Any, where: str) -> RecipeError:
    """Make one error of pydantic's list: the first key that is wrong, with everything that it would allow.

    Args:
        errors: As `ValidationError.errors()` gives them.
        schema: What was checked against.
        tree: What was checked.
        where: The section, or an empty text for a whole recipe.
    """
    first = min(errors, key=lambda error: error["type"] != "extra_forbidden")  # a misspelt key goes missing, too
    path = _path(first, tree)
    key = ".".join([*([where] if where else []), *map(str, path)]) or "recipe"
    if first["type"] == "extra_forbidden":
        return _unknown_key(schema, path, key)
    if first["type"] == "missing":
        return _missing(schema, path, key)
    same = [error for error in errors if _path(error, tree) == path]  # one for each member of a union
    choices = [choice for error in same for choice in _choices(error)]
    others = [_allowed(error) for error in same if not _choices(error)]
    allowed = " or ".join(dict.fromkeys([*([", ".join(choices)] if choices else []), *others]))
    return RecipeError(
        key, f"received {said(first['input'])}", f"allowed: {allowed}", _fix(first["input"], choices, others, key)
    )


def _path(error: ErrorDetails, tree: Any) -> list[str | int]:
    """The keys that lead to the value in the tree as it was written; labels of union members fall away."""
    path: list[str | int] = []
    node = tree
    for step in error["loc"]:
        inside = isinstance(node, dict) and step in node
        if inside or (isinstance(node, list) and isinstance(step, int) and step < len(node)):
            node = node[step]
            path.append(step)
    if error["type"] == "missing":
        path.append(error["loc"][-1])
    return path


def _choices(error: ErrorDetails) -> list[str]:
    expected = str(error.get("ctx", {}).get("expected", ""))
    return re.findall(r"'([^']*)'", expected) if error["type"] == "literal_error" else []


def _allowed(error: ErrorDetails) -> str:
    if error["type"] in _ALLOWED:
        return _ALLOWED[error["type"]].format(**error.get("ctx", {}))
    return error["msg"].removeprefix("Value error, ")


def _fix(value: Any, choices: list[str], others: list[str], key: str) -> str:
    if choices and isinstance(value, str):
        nearest, _, _ = did_you_mean(value, choices).partition("Known: ")
        return nearest.rstrip()
    if isinstance(value, float) and value.is_integer() and "a whole number" in others:
        return f"write {int(value)}"
    if "text" in others and not isinstance(value, list | dict) and value is not None:
        return f"quote it: {key}: {one_line(str(one_line(value)))}"
    if "a number" in others and isinstance(value, str):
        return "remove the quotes" if re.fullmatch(r"[-+.\deE]+", value) else "write it like 2.0e-4"
    return ""


def _unknown_key(schema: type[BaseModel], path: list[str | int], key: str) -> RecipeError:
    """Name the nearest key of the same section, or the section that has this very key."""
    name = str(path[-1])
    homes = [home for home in _homes(schema, name) if home != key]
    if homes:
        return RecipeError(key, "unknown key", f"{name} belongs to another section", f"write {' or '.join(homes)}")
    section = _section(schema, path[:-1])
    return RecipeError(key, "unknown key", did_you_mean(name, section.model_fields), "correct or remove it")


def _homes(schema: type[BaseModel], name: str) -> list[str]:
    """Where else in the recipe a key of this name stands."""
    below = {section: _section(schema, [section]) for section in schema.model_fields}
    found = [f"{section}.{name}" for section, kind in below.items() if kind is not schema and name in kind.model_fields]
    return found + [name] * (name in schema.model_fields)


def _section(schema: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel]:
    """Walk to the section that a path leads to, through optional and tuple types."""
    for step in path:
        if not isinstance(step, str) or step not in schema.model_fields:
            continue
        todo: list[Any] = [schema.model_fields[step].annotation]
        while todo:
            kind = todo.pop()
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                schema = kind
            todo += get_args(kind)
    return schema


def _missing(schema: type[BaseModel], path: list[str | int], key: str) -> RecipeError:
    """Name the missing key (of a whole section, its first one that has no default) and what it means."""
    field = _section(schema, path[:-1]).model_fields.get(str(path[-1]))
    if field and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
        inside = field.annotation.model_fields.items()
        needed, field = next((name, inner) for name, inner in inside if inner.is_required())
        path, key = [*path, needed], f"{key}.{needed}"
    fix = "add it to the recipe"
    if all(isinstance(step, str) for step in path):
        fix += f", or {key}=… on the command line"
    return RecipeError(key, "missing", (field.description or "").rstrip(".") if field else "", fix)
