# SPDX-License-Identifier: Apache-2.0
"""List the optimisers that `optim.optim` names."""

from __future__ import annotations

from typing import Annotated

import typer


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON on stdout.")] = False,
) -> None:
    """See the module's text."""
    from luthier.cli._entries import show_list

    show_list("engine.optim", as_json=as_json)
