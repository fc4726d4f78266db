# SPDX-License-Identifier: Apache-2.0
"""Everything about a study that is decided before its first run: the model it starts from, tuned keys, the budget."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.study.budget import plan_steps
from luthier.study.design import Design, design, resolve_start
from luthier.study.record import begin, is_done
from luthier.study.tuning import sentences, tune_with

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from luthier.study.results import StudyResult
    from luthier.study.schema import Study


def settle(
    study: Study,
    run: Callable[[Study], StudyResult],
    *,
    overwrite: bool,
    say: Callable[[str], None],
    callbacks: Sequence[str],
) -> Design:
    """Decide what is left open; what was decided before and still holds is used again.

    Args:
        study: Loaded.
        run: Runs a study: tuning is one.
        overwrite: Train the starting model again.
        say: Told what happens.
        callbacks: Watch the run of the starting model.

    Returns:
        The runs to be done, with what a reader must know of how they came about.

    Raises:
        LuthierError: The starting model, the tuning or the measurement failed.
    """
    if study.start is not None:
        _train_start(study, overwrite, say, callbacks)
    tuned = tune_with(study, run)
    plan = design(study, tuned)
    notes = sentences(study, tuned)
    if study.budget:
        steps, line = plan_steps(plan, Path(study.output_dir), say)
        plan = design(study, tuned, steps)
        notes.insert(0, line)
    return replace(plan, notes=tuple(notes))


def _train_start(study: Study, overwrite: bool, say: Callable[[str], None], callbacks: Sequence[str]) -> None:
    """Train the model that all variants start from, unless it is there."""
    from luthier.run import train
    from luthier.study.inputs import inputs_digest

    resolved = resolve_start(study)
    folder = Path(resolved.recipe.output_dir)
    wanted = {"fingerprint": resolved.fingerprint, "inputs": inputs_digest(resolved.recipe)}
    if not overwrite and is_done(folder, wanted):
        return
    say(f"start: {json.dumps(resolved.recipe.method['name'])} on {resolved.recipe.model.model_name_or_path}, once")
    resume = begin(folder, wanted, overwrite=overwrite)
    train(resolved, resume=resume, overwrite=not resume, say=say, callbacks=tuple(callbacks))
