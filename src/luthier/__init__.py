# SPDX-License-Identifier: Apache-2.0
"""Luthier fine-tunes language models by any method, and says honestly which method was worth it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Recipe", "__version__", "compare", "load", "plan", "train"]

if TYPE_CHECKING:
    from luthier.planning import plan
    from luthier.recipe import Recipe
    from luthier.run import load, train
    from luthier.study import compare

_HOMES = {
    "Recipe": "luthier.recipe",
    "compare": "luthier.study",
    "load": "luthier.run",
    "plan": "luthier.planning",
    "train": "luthier.run",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that ``import luthier`` loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'luthier' has no attribute {name!r}. Public names: {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
