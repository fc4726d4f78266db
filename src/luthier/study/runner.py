# SPDX-License-Identifier: Apache-2.0
"""Run a study: each variant with each seed, in turn or several at a time; what is there already is not done again.

    output_dir/
        study.yaml                      as resolved
        start/, tuning/, plan.json      what was decided before the first run (luthier.study.settle)
        runs/base/                      the model before training: summary.json, predictions
        runs/<variant>/seed-<k>/        a run folder, with predictions-<suite>.jsonl
        results.json, results.csv, report.md

A run counts as done while its recipe's fingerprint, the files it read and the suites are the same, whatever its name.
One that fails is shown in the table, and the study goes on.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from luthier.core.errors import Interrupted, RecipeError, did_you_mean
from luthier.evaluate.named import ROWS, TASK
from luthier.evaluate.suite import load_suite
from luthier.recipe.tasks import rows_of, task_of
from luthier.study.conclude import sentence
from luthier.study.design import design, difference_lines, resolve_start
from luthier.study.lock import held
from luthier.study.memory import quick_release
from luthier.study.on_ray import Cluster, package
from luthier.study.one import Work, told
from luthier.study.record import places_of
from luthier.study.report import write_report
from luthier.study.results import Run, StudyResult
from luthier.study.schema import BASE, load_study
from luthier.study.settle import settle
from luthier.study.together import alone_lines, several, share_out
from luthier.study.untrained import before, settle_base
from luthier.study.workers import Workers, places

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from luthier.evaluate.named import Given
    from luthier.evaluate.suite import Suite
    from luthier.recipe import Recipe
    from luthier.study.design import Planned
    from luthier.study.schema import Study

ON = ("here", "ray")


def compare(
    study: str | Path | dict[str, Any] | Study,
    overrides: Sequence[str] = (),
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
    callbacks: Sequence[str] = (),
    on: str = "here",
) -> StudyResult:
    """Run the variants of a study and compare them.

    Args:
        study: A study file, the same tree in Python, or a study.
        overrides: `key=value` words that change it, such as `base.train.max_steps=50`.
        overwrite: Do every run again, also those that are done.
        say: Receives one line at a time about what happens.
        callbacks: Names of callbacks that watch each run, such as `progress`.
        on: `here`, or `ray`: each run is a task of a Ray cluster.

    Returns:
        Runs, rows and differences; `results.json`, `results.csv` and `report.md` are written too.

    Raises:
        UserError: The study, a recipe or a suite cannot be used, or Ray is not installed; nothing has run.
        Interrupted: Ctrl-C; what is done is kept, and the same call goes on.
    """
    if on not in ON:
        raise RecipeError("compare on", f"unknown place {on!r}", did_you_mean(on, ON))
    if on == "ray":
        package()
    study = load_study(study, overrides)
    say = _once(say)
    bases = [design(study).base]  # every recipe is looked at before anything is written
    suites = _suites(study, bases[0].recipe)
    if study.start is not None:
        bases.insert(0, resolve_start(study))
    study, headless = settle_base(study, bases[-1].recipe, bases[0].recipe if study.start is not None else None)
    for note in (note for base in bases for note in base.notes):
        say(note)
    folder = _open_folder(study)
    with held(folder, say) as lock:
        again = partial(compare, overwrite=overwrite, say=say, callbacks=callbacks, on=on)
        plan = settle(study, again, overwrite=overwrite, say=say, callbacks=callbacks)
        plan = replace(plan, notes=(*headless, *plan.notes))
        for line in (*difference_lines(plan), *plan.notes):
            say(line)
        work = Work(
            design=plan,
            suites=suites,
            folder=folder,
            overwrite=overwrite,
            say=say,
            callbacks=callbacks,
            at_a_time=places(plan.study.jobs, len(plan.runs)) if on == "here" else 1,
            same={} if overwrite else places_of(folder, plan.runs),
        )
        return _run(work, say, lock, on)


def _run(work: Work, say: Callable[[str], None], lock: int | None, on: str) -> StudyResult:
    """Do the runs and write the report; of a stop, too."""
    runs: list[Run] = []
    plans, count = work.design.runs, work.at_a_time
    try:
        with quick_release(), ExitStack() as stack:
            # Begun before the base model is scored: it takes them seconds to import PyTorch.
            quiet = replace(work, say=_silent, callbacks=())
            workers: Workers | Cluster | None = None
            if on == "ray":
                workers = stack.enter_context(Cluster(work=quiet))
            elif count > 1:
                workers = stack.enter_context(Workers(count=count, work=quiet, say=work.say, lock=lock))
            if work.design.study.include_base:
                runs.append(before(work))
            _all(work, workers, runs, say)
    except (Interrupted, KeyboardInterrupt):
        if runs:
            write_report(partial_result := _result(work, runs), [sentence(partial_result)])
        finished = sum(not run.error for run in runs if run.variant != BASE)
        kept = f"{finished} of {len(plans)} runs are done and kept"
        raise Interrupted(str(work.folder), "stopped", kept, "the same command goes on") from None
    result = _result(work, runs)
    write_report(result, [sentence(result)])
    return result


def _suites(study: Study, recipe: Recipe) -> tuple[Suite, ...]:
    """What every model is asked: questions, or, of a task with labels, answers or vectors, rows of that task."""
    suites = tuple(_suite(given, study, recipe) for given in study.evaluate)
    if len({suite.name for suite in suites}) < len(suites):
        received = f"received {[suite.name for suite in suites]}"
        raise RecipeError("study evaluate", received, "suites with names of their own")
    if study.tune:
        chooser = _suite(study.tune.on, study, recipe)
        if twin := next((suite.name for suite in suites if suite.digest == chooser.digest), None):
            received = f"{chooser.name!r} holds the same items as {twin!r}, which is in evaluate"
            allowed = "a suite of its own: a score on the items that chose it flatters"
            raise RecipeError("study tune.on", received, allowed, "give another one")
    return suites


def _suite(given: Given, study: Study, recipe: Recipe) -> Suite:
    """A file that is named alone holds questions, or, where models do not reply to any, rows as they are trained on."""
    rows = rows_of(recipe.objective["name"])
    questions = rows == "judged" or (rows == "plain" and task_of(recipe) != "SEQ_2_SEQ_LM")
    return load_suite(given, study.items, rows=rows, alone=ROWS if questions else TASK, rising=True)


def _all(work: Work, workers: Workers | Cluster | None, runs: list[Run], say: Callable[[str], None]) -> None:
    """Do the planned runs, and add them to `runs` in the order of the plan."""
    plans, suite = work.design.runs, work.suites[0].name
    shared = work.design.study.together and not isinstance(workers, Cluster)  # a task of a cluster is one run
    groups = share_out(plans, work.at_a_time) if shared else [(planned,) for planned in plans]
    for line in alone_lines(groups):
        say(line)
    done: dict[str, Run] = {}

    def tell(planned: Planned, run: Run | None) -> None:
        name = f"[{plans.index(planned) + 1}/{len(plans)}] {planned.variant}, seed {planned.seed}"
        say(name if run is None else f"{name}: {told(run, suite)}")
        if run is not None:
            done[str(planned.folder)] = run

    try:
        if isinstance(workers, Cluster):
            workers.do(plans, tell)
            return
        if workers is not None:
            workers.do(groups, tell)
            return
        for group in groups:
            for planned in group:
                tell(planned, None)
            for planned, run in several(work, group):
                tell(planned, run)
    finally:
        runs += [done[str(planned.folder)] for planned in plans if str(planned.folder) in done]


def _silent(_: str) -> None:
    """In place of what cannot travel to another process."""


def _result(work: Work, runs: list[Run]) -> StudyResult:
    sizes = {suite.name: len(suite.items) for suite in work.suites}
    items = {suite.name: suite.compared for suite in work.suites}
    return StudyResult(folder=work.folder, design=work.design, runs=tuple(runs), suites=sizes, items=items)


def _open_folder(study: Study) -> Path:
    folder = Path(study.output_dir)
    if (folder / "recipe.yaml").exists():
        raise RecipeError("study output_dir", f"{folder} holds a run", "a new folder, or one of a study")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"{folder} cannot be made ({error})"
        raise RecipeError("study output_dir", what, "a folder that can be written") from None
    tree = study.model_dump(mode="json", by_alias=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return folder


def _once(say: Callable[[str], None]) -> Callable[[str], None]:
    """Pass each line on once: five runs read the same data."""
    said: set[str] = set()

    def told(line: str) -> None:
        if line not in said:
            said.add(line)
            say(line)

    return told
