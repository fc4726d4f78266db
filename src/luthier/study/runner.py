# SPDX-License-Identifier: Apache-2.0
"""Run a study: each variant with each seed, in turn or several at a time; what is there already is not done again.

    output_dir/
        study.yaml                      as resolved
        runs/base/                      the model before training: summary.json, predictions
        runs/<variant>/seed-<k>/        a run folder, with predictions-<suite>.jsonl
        results.json, results.csv, report.md

A run counts as done while its recipe's fingerprint, the files it read and the suites are the same. One that fails is
shown in the table, and the study goes on.
"""

from __future__ import annotations

import json
import traceback
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from luthier.core.errors import Interrupted, LuthierError, RecipeError, RunStopped
from luthier.evaluate.statistics import crossed
from luthier.evaluate.suite import load_suite
from luthier.recipe.fingerprint import flat
from luthier.run import load, train
from luthier.study.conclude import sentence
from luthier.study.design import design
from luthier.study.inputs import inputs_digest
from luthier.study.memory import release, resident_bytes, state_bytes
from luthier.study.record import add_scores, read_run, stored, trained_loss, unscored, was_stopped, write_summary
from luthier.study.report import write_report
from luthier.study.results import Run, StudyResult
from luthier.study.schema import BASE, load_study
from luthier.study.table import estimate
from luthier.study.workers import Workers, places

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from luthier.evaluate.suite import Suite
    from luthier.recipe import Model, Recipe
    from luthier.study.design import Design, Planned
    from luthier.study.schema import Study


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What every run of a study needs."""

    design: Design
    suites: tuple[Suite, ...]
    folder: Path
    overwrite: bool
    say: Callable[[str], None]
    callbacks: Sequence[str]
    at_a_time: int = 1


def compare(
    study: str | Path | dict[str, Any] | Study,
    overrides: Sequence[str] = (),
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
    callbacks: Sequence[str] = (),
) -> StudyResult:
    """Run the variants of a study and compare them.

    Args:
        study: A study file, the same tree in Python, or a study.
        overrides: `key=value` words that change it, such as `base.train.max_steps=50`.
        overwrite: Do every run again, also those that are done.
        say: Receives one line at a time about what happens.
        callbacks: Names of callbacks that watch each run, such as `progress`.

    Returns:
        Runs, rows and differences; `results.json`, `results.csv` and `report.md` are written too.

    Raises:
        UserError: The study, a recipe or a suite cannot be used; nothing has run.
        Interrupted: Ctrl-C; what is done is kept, and the same call goes on.
    """
    plan = design(load_study(study, overrides))
    suites = tuple(load_suite(name, plan.study.items) for name in plan.study.evaluate)
    if len({suite.name for suite in suites}) < len(suites):
        raise RecipeError("study evaluate", f"received {list(plan.study.evaluate)}", "suites with names of their own")
    folder = _open_folder(plan)
    count = places(plan.study.jobs, len(plan.runs))
    work = _Work(
        design=plan, suites=suites, folder=folder, overwrite=overwrite, say=_once(say), callbacks=callbacks,
        at_a_time=count,
    )  # fmt: skip
    runs: list[Run] = []
    try:
        with ExitStack() as stack:
            # Begun before the base model is scored: it takes them seconds to import PyTorch.
            quiet = replace(work, say=_silent, callbacks=())
            workers = stack.enter_context(Workers(count=count, work=quiet, say=work.say)) if count > 1 else None
            if plan.study.include_base:
                runs.append(_base(work))
            _all(work, workers, runs, say)
    except (Interrupted, KeyboardInterrupt):
        if runs:
            write_report(partial := _result(work, runs), sentence(partial))
        finished = sum(not run.error for run in runs if run.variant != BASE)
        kept = f"{finished} of {len(plan.runs)} runs are done and kept"
        raise Interrupted(str(folder), "stopped", kept, "the same command goes on") from None
    result = _result(work, runs)
    write_report(result, sentence(result))
    return result


def _all(work: _Work, workers: Workers | None, runs: list[Run], say: Callable[[str], None]) -> None:
    """Do the planned runs, and add them to `runs` in the order of the plan."""
    plans, suite = work.design.runs, work.suites[0].name
    if workers is None:
        for number, planned in enumerate(plans, 1):
            say(f"[{number}/{len(plans)}] {planned.variant}, seed {planned.seed}")
            runs.append(one(work, planned))
            say(f"    {_told(runs[-1], suite)}")
        return
    done: dict[str, Run] = {}

    def told(planned: Planned, run: Run | None) -> None:
        name = f"[{plans.index(planned) + 1}/{len(plans)}] {planned.variant}, seed {planned.seed}"
        say(name if run is None else f"{name}: {_told(run, suite)}")
        if run is not None:
            done[str(planned.folder)] = run

    try:
        workers.do(plans, told)
    finally:
        runs += [done[str(planned.folder)] for planned in plans if str(planned.folder) in done]


def _silent(_: str) -> None:
    """In place of what cannot travel to another process."""


def _result(work: _Work, runs: list[Run]) -> StudyResult:
    sizes = {suite.name: len(suite.items) for suite in work.suites}
    return StudyResult(folder=work.folder, design=work.design, runs=tuple(runs), suites=sizes)


def _open_folder(plan: Design) -> Path:
    folder = Path(plan.study.output_dir)
    if (folder / "recipe.yaml").exists():
        raise RecipeError("study output_dir", f"{folder} holds a run", "a new folder, or one of a study")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"{folder} cannot be made ({error})"
        raise RecipeError("study output_dir", what, "a folder that can be written") from None
    tree = plan.study.model_dump(mode="json")
    (folder / "study.yaml").write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return folder


def one(work: _Work, planned: Planned) -> Run:
    """Train, score and file one run, or take it from its folder."""
    folder, recipe = planned.folder, planned.resolved.recipe
    try:
        wanted = {"fingerprint": planned.resolved.fingerprint, "inputs": inputs_digest(recipe)}
        record = None if work.overwrite else stored(folder, wanted)
        reused = record is not None
        if record is None:
            record = _train(work, planned, wanted)
        elif missing := unscored(folder, record, work.suites):
            model, tokenizer = _trained(folder, recipe)
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


def _train(work: _Work, planned: Planned, wanted: dict[str, str]) -> dict[str, Any]:
    folder, recipe = planned.folder, planned.resolved.recipe
    resumable = not work.overwrite and was_stopped(folder, planned.resolved)
    if (folder / "recipe.yaml").exists():
        work.say(f"    {folder}: {'goes on where it stopped' if resumable else 'is replaced'}")
    release()
    held = resident_bytes()
    result = train(
        planned.resolved, resume=resumable, overwrite=not resumable, say=work.say, callbacks=tuple(work.callbacks)
    )
    record = {
        "dtype": str(result.model.dtype).removeprefix("torch."),
        **result.summary,
        **wanted,
        "runs_at_a_time": work.at_a_time,
        "trained_loss": trained_loss(folder),
        "memory_before_bytes": held,
        "state_bytes": state_bytes(result),
    }
    write_summary(folder, record)  # before the suites are asked: a stop there must not cost the training
    return write_summary(folder, add_scores(folder, record, result.model, result.tokenizer, work.suites, recipe))


def _base(work: _Work) -> Run:
    """Score the model before training: the base recipe's model, as every variant finds it."""
    recipe, folder = work.design.base.recipe, work.folder / "runs" / BASE
    seen = {k: v for k, v in flat(recipe.model_dump(mode="json")).items() if k.startswith("model.")}
    seen |= {"chat_template": recipe.data.chat_template, "system": recipe.data.system}
    wanted = {"asked": json.dumps(seen, sort_keys=True), "inputs": inputs_digest(recipe)}
    record = None if work.overwrite else stored(folder, wanted)
    missing = work.suites if record is None else unscored(folder, record, work.suites)
    if missing:
        work.say(f"{BASE}: {recipe.model.model_name_or_path} before training")
        model, tokenizer = _untrained(work, recipe)
        record = {
            "name": BASE,
            "steps": 0,
            "total_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "dtype": str(model.dtype).removeprefix("torch."),
            **(record or {}),
            **wanted,
        }
        folder.mkdir(parents=True, exist_ok=True)
        record = write_summary(folder, add_scores(folder, record, model, tokenizer, missing, recipe))
    run = replace(read_run(folder, record or {}, work.suites, BASE, None), reused=not missing)
    work.say(f"{BASE}: {_told(run, work.suites[0].name)}")
    return run


def _trained(folder: Path, recipe: Recipe) -> tuple[Any, Any]:
    """A finished run's model, in the numbers that its recipe trained in."""
    whole = folder / "model"
    if not whole.is_dir():
        return load(folder)
    return _loaded(recipe.model.model_copy(update={"model_name_or_path": str(whole), "model_revision": None}))


def _untrained(work: _Work, recipe: Recipe) -> tuple[Any, Any]:
    """The base model, and its tokenizer with the chat template that training will use."""
    from luthier.data import prepare

    model, tokenizer = _loaded(recipe.model)
    prepared = prepare(recipe.data, tokenizer, which="train", say=work.say)
    tokenizer.chat_template = prepared.chat_template or tokenizer.chat_template
    return model, tokenizer


def _loaded(chosen: Model) -> tuple[Any, Any]:
    from luthier.engine.precision import pick_device, pick_dtype
    from luthier.models import load_model, load_tokenizer

    device = pick_device()
    model = load_model(chosen, pick_dtype(chosen.dtype, device.type)).to(device)
    return model, load_tokenizer(chosen.model_name_or_path, chosen.model_revision, chosen.trust_remote_code)


def _told(run: Run, suite: str) -> str:
    if run.error:
        return f"failed: {run.error}"
    said = f"{suite} {estimate(crossed(run.right[suite]))}"
    if run.variant != BASE:
        said += f", trained loss {run.summary['trained_loss']:.3f}, {run.summary['seconds']:.1f} s"
    return said + (" (was done already)" if run.reused else "")


def _once(say: Callable[[str], None]) -> Callable[[str], None]:
    """Pass each line on once: five runs read the same data."""
    said: set[str] = set()

    def told(line: str) -> None:
        if line not in said:
            said.add(line)
            say(line)

    return told
