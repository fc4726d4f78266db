# SPDX-License-Identifier: Apache-2.0
"""What a run read from disk, as one hash: a finished run is stale once its model, data or plug-in files are others."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core import plugins
from luthier.core.shipped import shipped_set
from luthier.models.load import locate
from luthier.recipe.optimizers import KIND, entry_of

if TYPE_CHECKING:
    from luthier.recipe import Recipe

_READ = 1 << 26  # up to 64 MiB a file is told by its content, above by size and time: reading 16 GB costs minutes


def inputs_digest(recipe: Recipe) -> str:
    """Hash the local model, adapter and data files of a recipe, and plug-ins it uses: 16 hexadecimal digits.

    What comes from the hub is told by its name and revision, which the recipe's fingerprint holds.
    """
    places = [locate(recipe.model.model_name_or_path), recipe.model.adapter_name_or_path or ""]
    places += [source.path for source in (*recipe.data.train, *recipe.data.eval)]
    places += _plugins(recipe)
    found = hashlib.sha256()
    for place in places:
        path = shipped_set(place) or Path(place).expanduser()
        if not place or not path.exists():
            continue
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            status = file.stat()
            found.update(f"{file.name}:{_content(file, status.st_size, status.st_mtime_ns)}\n".encode())
    return found.hexdigest()[:16]


def _plugins(recipe: Recipe) -> list[str]:
    """The files beside each entry that LUTHIER_PLUGINS brings: what they share is among them."""
    used = {"methods": recipe.method["name"], "objectives": recipe.objective["name"]}
    used |= {KIND: entry_of(recipe.optim.optim)}
    own = [file for kind, name in used.items() if (file := plugins.source(kind, name)) is not None]
    return [str(file) for one in own for file in sorted(one.parent.glob("*.py"))]


@cache
def _content(file: Path, size: int, changed: int) -> str:
    if size > _READ:
        return f"{size}:{changed}"
    return hashlib.sha256(file.read_bytes()).hexdigest()
