# SPDX-License-Identifier: Apache-2.0
"""Variants of one recipe, run on the same examples over several seeds, compared with their errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Study", "StudyResult", "compare", "load_study"]

if TYPE_CHECKING:
    from luthier.study.results import StudyResult
    from luthier.study.runner import compare
    from luthier.study.schema import Study, load_study


def __getattr__(name: str) -> Any:
    """Import on first use: a study file is checked before torch is loaded."""
    if name == "compare":
        from luthier.study.runner import compare

        return compare
    if name == "StudyResult":
        from luthier.study.results import StudyResult

        return StudyResult
    if name in ("Study", "load_study"):
        from luthier.study import schema

        return getattr(schema, name)
    raise AttributeError(f"module 'luthier.study' has no attribute {name!r}. Public names: {', '.join(__all__)}")
