# SPDX-License-Identifier: Apache-2.0
"""Entries from outside the package: folders that LUTHIER_PLUGINS names, laid out as `src/luthier/` is.

    my-plugins/
        methods/scale.py        `method: scale`
        methods/_shared.py      no entry; `from luthier.methods._shared import ...`
        data/formats/ours.py    `format: ours`

    export LUTHIER_PLUGINS=~/my-plugins       several: with `:` between them, as in PATH

The variable reaches every process that a study or torchrun starts. Nothing here imports anything.
"""

from __future__ import annotations

import os
from pathlib import Path

from luthier.core.errors import UserError

VARIABLE = "LUTHIER_PLUGINS"
# What an entry of each kind must have; a file without it is not one.
KINDS: dict[str, tuple[str, ...]] = {
    "methods": ("Config", "apply"),
    "objectives": ("Config", "bind"),
    "data.formats": ("matches", "read"),
    "data.templates": ("TEMPLATE",),
    "engine.callbacks": ("make",),
    "engine.optim": ("make", "state_bytes"),
    "export.forms": ("Config", "write"),
    "recipe.dialects": ("recognises", "translate"),
    "judge.benches": ("QUESTIONS", "PARAMETERS", "SCALE", "read", "temperature", "single", "compared", "rate"),
    "evaluate.kinds": ("Config", "read", "ask", "judge"),
    "cli": ("main",),
}


def folders() -> tuple[Path, ...]:
    """The folders that the environment names.

    Raises:
        UserError: One is not there, or holds no folder of entries.
    """
    found = []
    for word in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        folder = Path(word).expanduser().absolute()
        if not folder.is_dir():
            raise UserError(
                VARIABLE, f"{word} is no folder", "folders laid out as src/luthier is", "correct or unset it"
            )
        if not any(inside(folder, kind).is_dir() for kind in KINDS):
            known = ", ".join(f"{kind.replace('.', '/')}/" for kind in KINDS)
            raise UserError(VARIABLE, f"{word} holds no folder of entries", known, "put your file into one of these")
        found.append(folder)
    return tuple(found)


def inside(folder: Path, kind: str) -> Path:
    """Where entries of a kind stand in a folder of plug-ins."""
    return folder.joinpath(*kind.split("."))


def source(kind: str, name: str) -> Path | None:
    """The file of an entry that comes from such a folder; None for one that ships with Luthier or is installed."""
    files = [inside(folder, kind) / f"{name}.py" for folder in folders()]
    return next((file for file in files if file.is_file()), None)
