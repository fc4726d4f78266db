# SPDX-License-Identifier: Apache-2.0
"""YAML, `key=value` words or a Python tree -> a checked recipe with the origin of every value."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from luthier.core import registry
from luthier.core.errors import RecipeError, did_you_mean
from luthier.recipe.fingerprint import fingerprint, flat
from luthier.recipe.schema import Recipe, Section

if TYPE_CHECKING:
    from collections.abc import Sequence


T = TypeVar("T", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML 1.2 floats: `2e-4` is a number (PyYAML reads it as a string)."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A recipe with all defaults filled in, and where each value came from.

    Attributes:
        recipe: The checked recipe; `method` and `objective` hold their entries' defaults too.
        origins: Dotted key -> `default`, `recipe` or `override`.
        fingerprint: See :func:`luthier.recipe.fingerprint.fingerprint`.
    """

    recipe: Recipe
    origins: dict[str, str]
    fingerprint: str

    def to_yaml(self) -> str:
        """Write the recipe as YAML whose comments name each value's origin; it loads as a recipe again."""
        lines = [f"# luthier recipe, fingerprint {self.fingerprint}; behind each value stands where it came from"]
        for section, value in self.recipe.model_dump(mode="json").items():
            if isinstance(value, dict):
                lines.append(f"{section}:")
                lines += [f"  {k}: {_scalar(v)}  # {self._origin(f'{section}.{k}')}" for k, v in value.items()]
            else:
                lines.append(f"{section}: {_scalar(value)}  # {self._origin(section)}")
        return "\n".join(lines) + "\n"

    def _origin(self, key: str) -> str:
        return self.origins.get(key, "default")


def _scalar(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return repr(value) if "e" not in repr(value) or "." in repr(value) else repr(value).replace("e", ".0e")
    return yaml.dump(value, default_flow_style=True, width=10**6, allow_unicode=True).removesuffix("\n...\n").strip()


def load_recipe(source: str | Path | dict[str, Any] | Recipe, overrides: Sequence[str] = ()) -> Resolved:
    """Read a recipe and resolve it.

    Args:
        source: A YAML file, the same tree in Python, or a recipe.
        overrides: Words such as ``method.r=16``; the value is read as YAML.

    Raises:
        RecipeError: The file is missing or broken, a key is unknown or a value does not fit.
    """
    if isinstance(source, Recipe):
        tree = source.model_dump(mode="json", exclude_unset=True)
    else:
        tree = source if isinstance(source, dict) else read_yaml(source)
    origins = dict.fromkeys(flat(tree), "recipe")
    for word in overrides:
        key, value = _parse_override(word)
        tree = _put(tree, key.split("."), value, key)
        origins = {k: v for k, v in origins.items() if not k.startswith(key)} | dict.fromkeys(flat(value, key), "override")
    return resolve(tree, origins)


def resolve(tree: dict[str, Any], origins: dict[str, str] | None = None) -> Resolved:
    """Check a tree against the schema and the chosen entries, and fill in every default."""
    recipe = _validate(Recipe, tree, "recipe")
    filled = {}
    for kind, folder in (("method", "methods"), ("objective", "objectives")):
        filled[kind] = _fill_entry(kind, folder, getattr(recipe, kind))
    recipe = recipe.model_copy(update=filled)
    return Resolved(recipe=recipe, origins=origins or {}, fingerprint=fingerprint(recipe))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        RecipeError: The file is missing, unreadable, not YAML, or not a mapping.
    """
    path = Path(path)
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - _Loader is a SafeLoader
    except FileNotFoundError:
        raise RecipeError(str(path), "no such file", fix="give the path of a YAML recipe") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(str(path), f"cannot be read ({error})", "a UTF-8 YAML file") from None
    except yaml.YAMLError as error:
        raise RecipeError(str(path), f"is not YAML ({' '.join(str(error).split())})", fix="mend the line named") from None
    if not isinstance(tree, dict):
        raise RecipeError(str(path), f"holds {_said(tree)}", "a mapping of sections", "see recipes/ for examples")
    return tree


def _fill_entry(kind: str, folder: str, given: dict[str, Any]) -> dict[str, Any]:
    if "name" not in given:
        raise RecipeError(kind, "no name", f"one of {', '.join(registry.entries(folder))}", f"write {kind}: {{name: …}}")
    config: type[BaseModel] = registry.get(folder, str(given["name"]), f"{kind}.name").Config
    own = {k: v for k, v in given.items() if k != "name"}
    checked = _validate(config, own, kind)
    return {"name": given["name"], **checked.model_dump(mode="json")}


def _parse_override(word: str) -> tuple[str, Any]:
    key, sign, value = word.partition("=")
    if not sign or not key:
        raise RecipeError(f"override {word!r}", "no '='", "key=value, as in method.r=16")
    try:
        return key, yaml.load(value, _Loader)  # noqa: S506 - _Loader is a SafeLoader
    except yaml.YAMLError:
        return key, value


def _put(tree: dict[str, Any], path: list[str], value: Any, key: str) -> dict[str, Any]:
    head, rest = path[0], path[1:]
    if not rest:
        return tree | {head: value}
    below = tree.get(head, {})
    if isinstance(below, str) and head in ("method", "objective"):
        below = {"name": below}
    if not isinstance(below, dict):
        raise RecipeError(f"override {key}", f"{head!r} holds {_said(below)}", fix="override the whole key instead")
    return tree | {head: _put(below, rest, value, key)}


def _validate(schema: type[T], tree: Any, where: str) -> T:
    try:
        return schema.model_validate(tree)
    except ValidationError as failed:
        error = failed.errors(include_url=False)[0]
        raise _told(error, schema, where) from None


def _told(error: Any, schema: type[BaseModel], where: str) -> RecipeError:
    path = [str(p) for p in error["loc"] if not str(p).startswith(("function-", "literal", "bool", "tuple", "list["))]
    key = ".".join(path if where == "recipe" else [where, *path])
    if error["type"] == "extra_forbidden":
        known = _known_keys(schema, path[:-1])
        return RecipeError(key, "unknown key", did_you_mean(path[-1], known), "correct or remove it")
    if error["type"] == "missing":
        return RecipeError(key, "missing", fix=f"add it to the recipe or give {key}=… on the command line")
    return RecipeError(key, f"received {_said(error['input'])}", error["msg"].lower())


def _known_keys(schema: type[BaseModel], path: list[str]) -> list[str]:
    """Walk to the section that an error names, through optional and tuple types."""
    for name in path:
        if name.isdigit() or name not in schema.model_fields:
            continue
        todo = [schema.model_fields[name].annotation]
        while todo:
            kind = todo.pop()
            if isinstance(kind, type) and issubclass(kind, Section):
                schema = kind
            todo += get_args(kind)
    return list(schema.model_fields)


def _said(value: Any) -> str:
    text = repr(value)
    return f"{text[:80]}… ({type(value).__name__})" if len(text) > 80 else f"{text} ({type(value).__name__})"
