# SPDX-License-Identifier: Apache-2.0
"""One run of a study: trained, scored and filed, or taken from where it stands."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from luthier.core.errors import Interrupted, LuthierError, RunStopped
from luthier.evaluate.statistics import crossed
from luthier.run import load, train
from luthier.study.inputs import inputs_digest
from luthier.study.memory import release, resident_bytes, state_bytes
from luthier.study.record import add_scores, adopt, begin, read_run, stored, trained_loss, unscored, write_summary
from luthier.study.results import Run
from luthier.study.schema import BASE
from luthier.study.table import estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from luthier.evaluate.suite import Suite
    from luthier.run import RunResult
    from luthier.study.design import Design, Planned


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every run of a study needs.

    Attributes:
        design: The study with its runs.
        suites: What every model is asked.
        folder: Of the study.
        overwrite: Do runs again that are done.
        say: Receives one line at a time.
        callbacks: Watch each run.
        at_a_time: How many runs go on at a time.
        same: Fingerprint -> folders of the same run, where there are several.
    """

    design: Design
    suites: tuple[Suite, ...]
    folder: Path
    overwrite: bool
    say: Callable[[str], None]
    callbacks: Sequence[str]
    at_a_time: int = 1
    same: Mapping[str, Sequence[Path]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What became of a run that trained with others (`study.together`).

    Attributes:
        outcome: Its result, or what ended it.
        held: Memory in bytes before they began.
    """

    outcome: RunResult | LuthierError
    held: int


def untrained(work: Work, planned: Planned) -> dict[str, str] | None:
    """What a run's record will be known by, where it has to be trained; None where it need not, or cannot be told."""
    try:
        wanted = _wanted(planned)
        done = not work.overwrite and (stored(planned.folder, wanted) or _twin(work, planned.folder, wanted))
    except (LuthierError, OSError):
        return None  # the run itself will say what is wrong
    return None if done else wanted


def _wanted(planned: Planned) -> dict[str, str]:
    return {"fingerprint": planned.resolved.fingerprint, "inputs": inputs_digest(planned.resolved.recipe)}


def one(work: Work, planned: Planned, trained: Trained | None = None) -> Run:
    """Train, score and file one run, or take it from its folder.

    Args:
        work: What every run needs.
        planned: The run.
        trained: What became of it where it was trained already.
    """
    folder, recipe = planned.folder, planned.resolved.recipe
    try:
        wanted = _wanted(planned)
        record = None if work.overwrite else stored(folder, wanted)
        if record is None and not work.overwrite and (source := _twin(work, folder, wanted)):
            work.say(f"    {folder}: the same run was done as {source}")
            record = adopt(source, folder, planned.resolved, wanted, work.suites)
        reused = record is not None
        if record is None:
            record = _file(work, planned, wanted, trained or _train(work, planned, wanted))
        elif missing := unscored(folder, record, work.suites):
            model, tokenizer = load(folder)
            record = write_summary(folder, add_scores(folder, record, model, tokenizer, missing, recipe))
        return replace(read_run(folder, record, work.suites, planned.variant, planned.seed), reused=reused)
    except RunStopped as error:  # this run alone: the study goes on, and the same command resumes it
        return Run(variant=planned.variant, seed=planned.seed, folder=folder, summary={}, right={}, error=str(error))
    except (Interrupted, KeyboardInterrupt):
        raise
    except Exception as error:
        said = str(error) if isinstance(error, LuthierError) else f"{type(error).__name__}: {error}"
        if not isinstance(error, LuthierError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        return Run(variant=planned.variant, seed=planned.seed, folder=folder, summary={}, right={}, error=said)
    finally:
        release()


def _twin(work: Work, folder: Path, wanted: dict[str, str]) -> Path | None:
    """Another folder of the study in which the same run was done."""
    others = (other for other in work.same.get(wanted["fingerprint"], ()) if other != folder)
    return next((other for other in others if stored(other, wanted)), None)


def _train(work: Work, planned: Planned, wanted: dict[str, str]) -> Trained:
    folder = planned.folder
    was_there = (folder / "recipe.yaml").exists()
    resume = begin(folder, wanted, overwrite=work.overwrite)
    if was_there:
        work.say(f"    {folder}: {'goes on where it stopped' if resume else 'is replaced'}")
    release()
    held = resident_bytes()
    result = train(planned.resolved, resume=resume, overwrite=not resume, say=work.say, callbacks=tuple(work.callbacks))
    return Trained(outcome=result, held=held)


def _file(work: Work, planned: Planned, wanted: dict[str, str], trained: Trained) -> dict[str, Any]:
    folder, result = planned.folder, trained.outcome
    if isinstance(result, LuthierError):
        raise result
    record = {
        "dtype": str(result.model.dtype).removeprefix("torch."),
        **result.summary,
        **wanted,
        "runs_at_a_time": work.at_a_time,
        "trained_loss": trained_loss(folder),
        "memory_before_bytes": trained.held,
        "state_bytes": state_bytes(result, planned.resolved.recipe.optim),
    }
    write_summary(folder, record)  # before the suites are asked: a stop there must not cost the training
    return write_summary(
        folder, add_scores(folder, record, result.model, result.tokenizer, work.suites, planned.resolved.recipe)
    )


def told(run: Run, suite: str) -> str:
    """A run's result in a few words."""
    if run.error:
        return f"failed: {run.error}"
    said = f"{suite} {estimate(crossed(run.right[suite]))}"
    if run.variant != BASE:
        said += f", trained loss {run.summary['trained_loss']:.3f}, {run.summary['seconds']:.1f} s"
    return said + (" (was done already)" if run.reused else "")
