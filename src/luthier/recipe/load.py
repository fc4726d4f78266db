# SPDX-License-Identifier: Apache-2.0
"""YAML, `key=value` words or a Python tree -> a checked recipe with the origin of every value."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from luthier.core import registry
from luthier.core.errors import RecipeError
from luthier.recipe import foreign, rules
from luthier.recipe.fingerprint import fingerprint, flat
from luthier.recipe.override import parse_override, put
from luthier.recipe.schema import Recipe, Source
from luthier.recipe.tasks import default_objective
from luthier.recipe.text import one_line
from luthier.recipe.text import read_yaml as read_yaml  # studies read their file in the same way
from luthier.recipe.told import told

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from luthier.recipe.dialects._draft import Translation

T = TypeVar("T", bound=BaseModel)
Origin = Literal["default", "recipe", "override"]
FOLDERS = {"method": "methods", "objective": "objectives"}  # sections whose keys an entry defines


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A recipe with all defaults filled in, and where each value came from.

    Attributes:
        recipe: The checked recipe; `method` and `objective` hold their entries' defaults too.
        origins: Every key (`section.key`, or `seed`) -> `default`, `recipe` or `override`.
        fingerprint: See :func:`luthier.recipe.fingerprint.fingerprint`.
        translation: What another tool's recipe was translated to; None for Luthier's own.
    """

    recipe: Recipe
    origins: dict[str, Origin]
    fingerprint: str
    translation: Translation | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user must be told before such a recipe is run, a line each."""
        return self.translation.lines() if self.translation else ()

    def to_yaml(self) -> str:
        """Write the recipe as YAML whose comments name each value's origin; it loads as the same recipe again."""
        lines = [f"# luthier recipe, fingerprint {self.fingerprint}; behind each value stands where it came from"]
        for section, value in self.recipe.model_dump(mode="json").items():
            if isinstance(value, dict):
                lines.append(f"{section}:")
                lines += [
                    f"  {one_line(k)}: {one_line(v)}  # {self.origins[f'{section}.{k}']}" for k, v in value.items()
                ]
            else:
                lines.append(f"{section}: {one_line(value)}  # {self.origins[section]}")
        return "\n".join(lines) + "\n"

    def given_yaml(self) -> str:
        """Write what was given, without defaults, as YAML that loads as the same recipe; comments name foreign keys."""
        moved = self.translation.moved if self.translation else {}
        lines = [f"# luthier recipe, fingerprint {self.fingerprint}"]
        if self.translation:
            lines[0] += f", from a recipe of {self.translation.dialect}; behind each value stand the keys it came from"
            lines += [f"# {note}" for note in self.notes[1:]]
        for section, value in self.recipe.model_dump(mode="json", exclude_unset=True).items():
            if not isinstance(value, dict):
                lines += [f"{section}: {_line(value, section, moved)}"] * (self.origins[section] != "default")
                continue
            keys = [key for key in value if key == "name" or self.origins[f"{section}.{key}"] != "default"]
            if any(self.origins[f"{section}.{key}"] != "default" for key in keys):
                lines.append(f"{section}:")
                lines += [f"  {one_line(key)}: {_line(value[key], f'{section}.{key}', moved)}" for key in keys]
        return "\n".join(lines) + "\n"


def _line(value: Any, place: str, moved: Mapping[str, tuple[str, ...]]) -> str:
    keys = ", ".join(moved.get(place, ()))
    return one_line(value) + (f"  # {keys}" if keys and keys != place.rpartition(".")[2] else "")


def load_recipe(source: str | Path | dict[str, Any] | Recipe, overrides: Sequence[str] = ()) -> Resolved:
    """Read a recipe and resolve it.

    Args:
        source: A YAML file, the same tree in Python, or a recipe; also one of another tool (`luthier.recipe.dialects`).
        overrides: Words such as ``method.r=16``; the value is read as YAML. In another tool's recipe its own keys too.

    Raises:
        RecipeError: The file is missing or broken, a key is unknown or a value does not fit.

    Example:
        >>> tree = {"model": {"model_name_or_path": "embedded"}, "data": {"train": "rows.jsonl"}}
        >>> resolved = load_recipe(tree, ["method.r=8"])
        >>> resolved.recipe.method["r"], resolved.origins["method.r"], resolved.origins["optim.learning_rate"]
        (8, 'override', 'default')
    """
    if isinstance(source, Recipe):
        tree = source.model_dump(mode="json", exclude_unset=True)
    else:
        tree = _plain(source if isinstance(source, dict) else read_yaml(source))
    words = [parse_override(word) for word in overrides]
    found = foreign.translate(tree, words, None if isinstance(source, dict | Recipe) else os.fspath(source))
    if found is None:
        return resolve(*_overridden(tree, words, ()))
    foreign.refuse(found.translation)
    tree, origins = _overridden(found.translation.tree, found.words, found.overridden)
    try:
        return replace(resolve(tree, origins), translation=found.translation)
    except RecipeError as error:
        raise foreign.named(error, found.translation) from None


def _overridden(
    tree: dict[str, Any], words: Sequence[tuple[str, Any]], before: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Origin]]:
    """Apply overrides, and say where each key came from; `before` are keys that were overridden already."""
    tree = {key: _section(key, value) for key, value in tree.items()}
    origins: dict[str, Origin] = dict.fromkeys(flat(tree), "recipe")
    origins |= dict.fromkeys(before, "override")
    for key, given in words:
        value = _section(key, given)
        tree = put(tree, key.split("."), value, key)
        origins = {k: v for k, v in origins.items() if k != key and not k.startswith(f"{key}.")}
        origins |= dict.fromkeys(flat(value, key), "override")
    return tree, origins


def resolve(tree: dict[str, Any], origins: dict[str, Origin] | None = None) -> Resolved:
    """Check a tree against the schema, the rules and the chosen entries, and fill in every default.

    Args:
        tree: As :func:`load_recipe` takes it.
        origins: Dotted key -> origin, for keys that are not defaults.

    Raises:
        RecipeError: A key is unknown, a value does not fit, or two keys contradict each other.
    """
    recipe = checked(Recipe, tree, "")
    filled: dict[str, Any] = {}
    for kind in FOLDERS:
        given = _default(kind, recipe) | (getattr(recipe, kind) if kind in recipe.model_fields_set else {})
        filled[kind] = {"name": given["name"], **entry_config(kind, given).model_dump(mode="json")}
    recipe = recipe.model_copy(update=filled)
    rules.check(recipe)
    return Resolved(recipe=recipe, origins=_origins(recipe, origins or {}), fingerprint=fingerprint(recipe))


def _default(kind: str, recipe: Recipe) -> dict[str, Any]:
    """What stands for an entry that a recipe does not name: an objective of its task, where it has one."""
    default: dict[str, Any] = Recipe.model_fields[kind].default
    if kind == "objective" and recipe.model.task_type != "auto":
        return {"name": default_objective(recipe.model.task_type)}
    return default


def entry_config(kind: str, given: dict[str, Any]) -> BaseModel:
    """Check `method` or `objective` against the entry that it names.

    Args:
        kind: `method` or `objective`.
        given: The section: `name`, and the entry's own keys, as a recipe that was resolved holds them.

    Returns:
        The entry's own `Config`.

    Raises:
        RecipeError: There is no such entry, or a key of it is wrong.
    """
    config: type[BaseModel] = registry.get(FOLDERS[kind], str(given["name"]), f"{kind}.name").Config
    return checked(config, {k: v for k, v in given.items() if k != "name"}, kind)


def source_of(word: str, where: str) -> Source:
    """Read one source as a command's option names it: a path, or the mapping that a recipe would hold.

    Args:
        word: `rows.csv`, or `{path: rows.csv, columns: {text: 0, label: 1}}`.
        where: The option, for messages.

    Raises:
        RecipeError: It begins a mapping and is none of a source.

    Example:
        >>> source_of("{path: rows.csv, columns: {text: 0}}", "--data").columns
        {'text': 0}
    """
    if not word.lstrip().startswith("{"):
        return Source(path=word)
    tree = parse_override(f"{where}={word}")[1]
    if not isinstance(tree, dict):
        raise RecipeError(where, word, "a path, or {path: ..., columns: {...}}", "close its braces and quotes")
    return checked(Source, tree, where)


def form_config(config: type[T], words: Sequence[str]) -> T:
    """Check `key=value` words against what a form of export can be told.

    Raises:
        RecipeError: A word is no `key=value`, stands twice, or its key or value is wrong.
    """
    tree: dict[str, Any] = {}
    for word in words:
        key, value = parse_override(word)
        if key in tree:
            raise RecipeError(key, "given twice", "each key once", "leave one out")
        tree[key] = value
    return checked(config, tree, "")


def _plain(value: Any) -> Any:
    """Make a Python tree what YAML would have given: paths as text, tuples as lists."""
    if isinstance(value, dict):
        return {str(key): _plain(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _section(key: str, value: Any) -> Any:
    """Spell out `method: lora`, and take an empty section (`optim:` and nothing below) for one of defaults."""
    if key in FOLDERS and isinstance(value, str):
        return {"name": value}
    return {} if value is None and key in ("optim", "train") else value


def _origins(recipe: Recipe, given: dict[str, Origin]) -> dict[str, Origin]:
    """The origin of each key; one whose value was put together from both says `override`."""
    origins: dict[str, Origin] = {}
    for section, value in recipe.model_dump(mode="json").items():
        for key in [f"{section}.{name}" for name in value] if isinstance(value, dict) else [section]:
            found = {origin for name, origin in given.items() if name == key or name.startswith(f"{key}.")}
            origins[key] = "override" if "override" in found else "recipe" if found else "default"
    return origins


def checked(schema: type[T], tree: Any, where: str) -> T:
    """Check a mapping as JSON: strict about kinds, and a list may fill a tuple.

    Raises:
        RecipeError: A key is unknown or missing, or a value does not fit.
    """
    try:
        text = json.dumps(tree)
    except TypeError as error:  # a date, or an object in a Python tree
        raise RecipeError(
            where or "recipe", str(error), "text, numbers, true, false, null, lists, mappings", "quote it"
        ) from None
    try:
        return schema.model_validate_json(text)
    except ValidationError as failed:
        raise told(failed.errors(include_url=False), schema, tree, where) from None
