# SPDX-License-Identifier: Apache-2.0
"""List the methods, what a recipe can train; with a name, that method's keys."""

from __future__ import annotations

from typing import Annotated

import typer


def main(
    name: Annotated[str, typer.Argument(help="Show this method's keys.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """See the module's text."""
    from luthier.cli._entries import show_list, show_one

    if name:
        show_one("methods", name, as_json=as_json)
    else:
        show_list("methods", as_json=as_json)
