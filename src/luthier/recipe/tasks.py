# SPDX-License-Identifier: Apache-2.0
"""What a recipe's model is for, and the kind of its rows: its objective and `model.task_type` say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.core import registry

if TYPE_CHECKING:
    from luthier.core.tasks import RowKind, Task
    from luthier.recipe.schema import Recipe

DEFAULT = "DEFAULT_FOR"


def tasks_of(objective: str) -> tuple[Task, ...]:
    """What the model of an objective can be for, the usual one first."""
    tasks: tuple[Task, ...] = getattr(registry.get("objectives", objective), "TASKS", ("CAUSAL_LM",))
    return tasks


def task_of(recipe: Recipe) -> Task:
    """What a recipe's model is for."""
    asked = recipe.model.task_type
    return tasks_of(recipe.objective["name"])[0] if asked == "auto" else asked


def rows_of(objective: str) -> RowKind:
    """The kind of rows that an objective takes."""
    kind: RowKind = getattr(registry.get("objectives", objective), "ROWS", "plain")
    return kind


def default_objective(task: Task) -> str:
    """The objective of a recipe that names its task and nothing else."""
    modules = {name: registry.get("objectives", name) for name in registry.entries("objectives")}
    return next((name for name, module in modules.items() if getattr(module, DEFAULT, None) == task), "sft")
