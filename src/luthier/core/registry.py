# SPDX-License-Identifier: Apache-2.0
"""A file is an entry: the module's name is its key, its docstring's first line its help.

Listing a folder reads file names and docstrings only (``ast``), so it imports nothing; :func:`get` imports one file.
Folders that LUTHIER_PLUGINS names add entries (``core/plugins.py``), and so do installed packages through the
entry-point group ``luthier.<kind>``: ``luthier.methods``, ``luthier.data.formats`` ...
This is the only module that imports by name.
"""

from __future__ import annotations

import ast
import importlib
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

from luthier.core import plugins
from luthier.core.errors import RecipeError, UserError, did_you_mean

if TYPE_CHECKING:
    from types import ModuleType


def entries(kind: str) -> dict[str, str]:
    """Map each entry's key to the first line of its help, without importing it.

    Args:
        kind: Dotted folder below ``luthier``: ``"methods"``, ``"data.formats"``, ``"cli"`` ...

    Returns:
        Keys in alphabetical order. Files that start with an underscore are no entries.

    Raises:
        UserError: A plug-in has the name of another entry, or is no Python.
    """
    return dict(_entries(kind, tuple(plugins.inside(folder, kind) for folder in plugins.folders())))


def get(kind: str, name: str, where: str | None = None) -> ModuleType:
    """Import and return one entry.

    Args:
        kind: As in :func:`entries`.
        name: The entry's key.
        where: The recipe key to name in the error.

    Raises:
        RecipeError: There is no such entry; the message names the nearest one.
        UserError: It lacks what an entry of its kind must have.
    """
    known = entries(kind)
    if name not in known:
        raise RecipeError(where or kind, f"unknown name {name!r}", did_you_mean(name, known))
    module = _import(kind, name)
    if lacking := [word for word in plugins.KINDS.get(kind, ()) if not hasattr(module, word)]:
        allowed = f"an entry of luthier.{kind} defines {', '.join(plugins.KINDS[kind])}"
        raise UserError(str(getattr(module, "__file__", name)), f"no {lacking[0]}", allowed, "define it")
    return module


@cache
def _entries(kind: str, added: tuple[Path, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    there: dict[str, Path] = {}
    for folder in (_shipped(kind), *added):
        for file in folder.glob("*.py"):
            if file.stem.startswith("_"):
                continue
            if file.stem in found:
                received = f"its name is that of {there[file.stem]}"
                raise UserError(f"{plugins.VARIABLE}: {file}", received, "a name of its own", "rename the file")
            found[file.stem], there[file.stem] = _help(file), file
    for point in metadata.entry_points(group=f"luthier.{kind}"):
        found.setdefault(point.name, _help_of_point(point))
    return dict(sorted(found.items()))


def _shipped(kind: str) -> Path:
    spec = find_spec(f"luthier.{kind}")
    if spec is None or not spec.submodule_search_locations or not spec.origin:
        raise LookupError(f"luthier.{kind} is not a folder of entries")
    return Path(spec.origin).parent  # its list of locations grows by the folders of plug-ins that were imported


def _help(file: Path) -> str:
    try:
        doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UserError(str(file), f"cannot be read as Python ({error})", "a Python module", "mend it") from None
    return doc.split("\n", 1)[0]


def _help_of_point(point: metadata.EntryPoint) -> str:
    """The help of a module in another package, found without importing that package."""
    top, *rest = point.module.split(".")
    spec = find_spec(top)
    places = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    files = [place.joinpath(*rest).with_suffix(".py") for place in places] if rest else []
    files += [place.joinpath(*rest) / "__init__.py" for place in places]
    files += [Path(spec.origin)] if spec and spec.origin and not rest else []
    text = next((_help(file) for file in files if file.is_file()), "")
    return text or f"from {point.value}"


def _import(kind: str, name: str) -> ModuleType:
    if plugins.source(kind, name) is not None:
        package = importlib.import_module(f"luthier.{kind}")
        for folder in (plugins.inside(folder, kind) for folder in plugins.folders()):
            if folder.is_dir() and str(folder) not in package.__path__:
                package.__path__.append(str(folder))
    elif find_spec(f"luthier.{kind}.{name}") is None:  # looked for last: listing what is installed takes 25 ms
        for point in metadata.entry_points(group=f"luthier.{kind}"):
            if point.name == name:
                return cast("ModuleType", point.load())
    return importlib.import_module(f"luthier.{kind}.{name}")
