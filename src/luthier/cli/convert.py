# SPDX-License-Identifier: Apache-2.0
"""Write a recipe of TRL, LLaMA-Factory or Axolotl in Luthier's own keys.

The new recipe goes to stdout or to `--output`; behind each key stands what it came from. It loads to the same resolved
recipe as the old one: the command checks it. `key=value` words override keys of either kind:
`luthier convert old.yaml push_to_hub=false -o new.yaml`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from luthier.core.errors import LuthierError, UserError


def main(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe of another tool.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value words.", metavar="[KEY=VALUE]...")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file, which is new.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """See the module's text."""
    from luthier.recipe import load_recipe
    from luthier.recipe.text import parse

    resolved = load_recipe(recipe, overrides or ())
    written = resolved.given_yaml()
    tree = parse(written)
    if (again := load_recipe(tree).fingerprint) != resolved.fingerprint:
        raise LuthierError(str(recipe), f"fingerprint {resolved.fingerprint} became {again}", fix="report this recipe")
    if output is not None:
        _write(output, written)
    if as_json:
        found = resolved.translation
        document = {
            "recipe": tree,
            "fingerprint": resolved.fingerprint,
            "dialect": found.dialect if found else "Luthier",
            "moved": found.moved if found else {},
            "defaults": found.defaults if found else (),
            "idle": found.idle if found else (),
            "notes": found.notes if found else (),
        }
        print(json.dumps(document, ensure_ascii=False))
        return
    for note in resolved.notes[1:]:
        print(note, file=sys.stderr)
    if output is None:
        sys.stdout.write(written)
    else:
        print(f"written to {output}", file=sys.stderr)


def _write(output: Path, text: str) -> None:
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(str(output), "is there already", "a new file", "choose another name") from None
    except OSError as error:
        raise UserError(str(output), f"cannot be written ({error})", "a file in a folder that is there") from None
