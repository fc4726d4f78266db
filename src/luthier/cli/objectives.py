# SPDX-License-Identifier: Apache-2.0
"""List the objectives that a recipe can minimise."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON on stdout.")] = False,
) -> None:
    """See the module's text."""
    from luthier.core import registry

    known = registry.entries("objectives")
    if as_json:
        print(json.dumps([{"name": name, "help": text} for name, text in known.items()], ensure_ascii=False))
        return
    width = max(map(len, known))
    for name, text in known.items():
        print(f"{name:<{width}}  {text}")
