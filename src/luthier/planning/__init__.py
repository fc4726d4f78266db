# SPDX-License-Identifier: Apache-2.0
"""What a run will take, before it runs: bytes, operations, seconds; and what it took, beside that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.planning.case import open_case
from luthier.planning.estimate import Plan, plan_of
from luthier.planning.remedies import find_remedies
from luthier.recipe import Recipe, Resolved, load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Plan", "plan"]


def plan(
    recipe: Recipe | Resolved | dict[str, Any] | str | Path,
    *,
    on: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Say what a run will take, from its recipe, its rows and its model's configuration; no weight is read.

    Args:
        recipe: A recipe, the same tree, or a YAML file.
        on: A machine by name, such as `8xA100-40GB`; None: this one.
        say: Receives one line at a time about what is read.

    Raises:
        UserError: Something in the recipe, the rows or the model cannot be used, or there is no such machine.
    """
    resolved = recipe if isinstance(recipe, Resolved) else load_recipe(recipe)
    for note in () if resolved is recipe else resolved.notes:
        say(note)
    case = open_case(resolved.recipe, on, say)
    found = plan_of(case)
    return found if found.fits else plan_of(case, remedies=find_remedies(case))
