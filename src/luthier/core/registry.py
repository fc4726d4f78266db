# SPDX-License-Identifier: Apache-2.0
"""A file is an entry: the module's name is its key, its docstring's first line its help.

Listing a folder reads file names and docstrings only (``ast``), so it imports nothing; :func:`get` imports one file.
Other packages add entries through the entry-point group ``luthier.<kind>``: ``luthier.methods``,
``luthier.data.formats`` ...
This is the only module that imports by name.
"""

from __future__ import annotations

import ast
import importlib
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from types import ModuleType


@cache
def entries(kind: str) -> dict[str, str]:
    """Map each entry's key to the first line of its help, without importing it.

    Args:
        kind: Dotted folder below ``luthier``: ``"methods"``, ``"data.formats"``, ``"cli"`` ...

    Returns:
        Keys in alphabetical order. Files that start with an underscore are no entries.
    """
    spec = find_spec(f"luthier.{kind}")
    if spec is None or not spec.submodule_search_locations:
        raise LookupError(f"luthier.{kind} is not a folder of entries")
    found = {}
    for folder in spec.submodule_search_locations:
        for file in Path(folder).glob("*.py"):
            if not file.stem.startswith("_"):
                doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
                found[file.stem] = doc.split("\n", 1)[0]
    for point in metadata.entry_points(group=f"luthier.{kind}"):
        found.setdefault(point.name, f"from {point.value}")
    return dict(sorted(found.items()))


def get(kind: str, name: str, where: str | None = None) -> ModuleType:
    """Import and return one entry.

    Args:
        kind: As in :func:`entries`.
        name: The entry's key.
        where: The recipe key to name in the error.

    Raises:
        RecipeError: There is no such entry; the message names the nearest one.
    """
    known = entries(kind)
    if name not in known:
        raise RecipeError(where or kind, f"unknown name {name!r}", did_you_mean(name, known))
    if find_spec(f"luthier.{kind}.{name}") is None:  # looked for last: listing what is installed takes 25 ms
        for point in metadata.entry_points(group=f"luthier.{kind}"):
            if point.name == name:
                return point.load()  # type: ignore[no-any-return]
    return importlib.import_module(f"luthier.{kind}.{name}")
