# SPDX-License-Identifier: Apache-2.0
"""List the objectives that a recipe can minimise; with a name, that objective's keys."""

from __future__ import annotations

from typing import Annotated

import typer


def main(
    name: Annotated[str, typer.Argument(help="Show this objective's keys.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """See the module's text."""
    from luthier.cli._entries import show_list, show_one

    if name:
        show_one("objectives", name, as_json=as_json)
    else:
        show_list("objectives", as_json=as_json)
