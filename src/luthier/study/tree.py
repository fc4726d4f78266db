# SPDX-License-Identifier: Apache-2.0
"""A study's result as one tree of plain data: what study.json holds, and what pages and `--json` are made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.study.categories import categories_json, forgetting
from luthier.study.claims import judged
from luthier.study.conclude import sentence
from luthier.study.roles import picture
from luthier.study.rows import plain
from luthier.study.said import as_data
from luthier.study.table import captions, smallest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.study.results import StudyResult


def tree(result: StudyResult, conclusion: Sequence[str] = ()) -> dict[str, Any]:
    """Everything; what is unknown is null, never left out. Sentences are `{key, values, text}`.

    Args:
        result: A study.
        conclusion: What is said of it, line by line; by default which variants were better or worse than the baseline.
    """
    study = result.design.study
    changes = forgetting(result)
    return {
        "title": study.title,
        "folder": str(result.folder),
        "suites": dict(result.suites),
        "seeds": list(study.seeds),
        "baseline": study.against,
        "controlled": as_data(result.controlled()),
        "differing": result.design.differing,
        "verdict": [as_data(line) for line in conclusion or (sentence(result),) if line],
        "picture": picture(result),
        "rows": {suite: [row.to_json() for row in result.rows(suite)] for suite in result.suites},
        "categories": categories_json(result),
        "forgetting": {
            variant: {name: change.to_json() for name, change in found.items()} for variant, found in changes.items()
        },
        "claims": [claim.to_json() for claim in judged(result)],
        "smallest": {suite: plain(smallest(result, suite)) for suite in result.suites},
        "notes": [as_data(line) for line in captions(result)],
        "runs": [run.to_json(result.suite) for run in result.runs],
    }
