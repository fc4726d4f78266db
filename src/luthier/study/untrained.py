# SPDX-License-Identifier: Apache-2.0
"""The model before training, as every variant finds it: whether it has a score at all, and what that is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import RecipeError
from luthier.recipe.fingerprint import flat
from luthier.recipe.tasks import rows_of, task_of
from luthier.study.inputs import inputs_digest
from luthier.study.one import told
from luthier.study.record import add_scores, read_run, stored, unscored, write_summary
from luthier.study.said import Said, said
from luthier.study.schema import BASE

if TYPE_CHECKING:
    from luthier.recipe import Recipe
    from luthier.study.one import Work
    from luthier.study.results import Run
    from luthier.study.schema import Study

HEADED = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")  # what a head says; vectors and words need none of their own


def settle_base(study: Study, base: Recipe, start: Recipe | None) -> tuple[Study, tuple[Said, ...]]:
    """Leave the model before training out where it would answer with a head of random numbers.

    Args:
        study: Loaded.
        base: The recipe that every variant starts from.
        start: What is trained before all of them, where anything is.

    Returns:
        The study, without that row where it has no score; and what a reader must know of that.

    Raises:
        RecipeError: It has no score, and the study asks for it by name.
    """
    task = task_of(base)
    if not study.include_base or task not in HEADED or rows_of(base.objective["name"]) == "judged":
        return study, ()
    if _has_head(base, start):
        return study, ()
    name = base.model.model_name_or_path
    received = f"{name}, which has no trained head for {task} and so no score before training"
    claims = [f"claims.{n}" for n, claim in enumerate(study.claims) if BASE in (claim.first, claim.second)]
    asking = ["baseline"] if study.against == BASE else claims
    if asking or "include_base" in study.model_fields_set:
        fix = "name a variant" if asking else "leave include_base out"
        allowed = f"a checkpoint that was trained for {task}, or no row {BASE!r}"
        raise RecipeError(f"study {(asking or ['include_base'])[0]}", received, allowed, fix)
    return study.model_copy(update={"include_base": False}), (said("base_without_head", model=name, task=task),)


def _has_head(base: Recipe, start: Recipe | None) -> bool:
    """Whether the base's head was trained for its task: in its checkpoint, its adapter, or by the run before all."""
    from luthier.models.load import load_config
    from luthier.models.purpose import read_purpose
    from luthier.models.tasks import saved_for

    task, model = task_of(base), base.model
    if start is not None:
        return task_of(start) == task
    adapter = read_purpose(Path(model.adapter_name_or_path)) if model.adapter_name_or_path else None
    if adapter is not None and adapter.task == task:
        return True
    config = load_config(model.model_name_or_path, model.model_revision, model.trust_remote_code)
    return saved_for(config) == task


def before(work: Work) -> Run:
    """Score the model before training: the base recipe's model, as every variant finds it."""
    recipe, folder = work.design.base.recipe, work.folder / "runs" / BASE
    kept = ("model.",) if task_of(recipe) == "CAUSAL_LM" else ("model.", "data.", "objective.")
    seen = {k: v for k, v in flat(recipe.model_dump(mode="json")).items() if k.startswith(kept)}
    seen |= {"chat_template": recipe.data.chat_template, "system": recipe.data.system}
    wanted = {"asked": json.dumps(seen, sort_keys=True), "inputs": inputs_digest(recipe)}
    record = None if work.overwrite else stored(folder, wanted)
    missing = work.suites if record is None else unscored(folder, record, work.suites)
    if missing:
        work.say(f"{BASE}: {recipe.model.model_name_or_path} before training")
        folder.mkdir(parents=True, exist_ok=True)
        model, tokenizer = _untrained(work, recipe, folder)
        record = {
            "name": BASE,
            "steps": 0,
            "total_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "dtype": str(model.dtype).removeprefix("torch."),
            **(record or {}),
            **wanted,
        }
        record = write_summary(folder, add_scores(folder, record, model, tokenizer, missing, recipe))
    run = replace(read_run(folder, record or {}, work.suites, BASE, None), reused=not missing)
    work.say(f"{BASE}: {told(run, work.suites[0].name)}")
    return run


def _untrained(work: Work, recipe: Recipe, folder: Path) -> tuple[Any, Any]:
    """The base model and its tokenizer, ready to be asked; a file in its folder says what a task's model is for."""
    from luthier.engine.rows import read_rows
    from luthier.models.purpose import purpose_of
    from luthier.run import apply_method, load_base

    if task_of(recipe) == "CAUSAL_LM":
        model, tokenizer = _words(work, recipe)
    else:
        rows = read_rows(recipe, work.say)
        model, tokenizer = load_base(recipe, rows.labels, work.say), rows.tokenizer
        if purpose := purpose_of(recipe, task_of(recipe), rows.labels):
            purpose.write(folder)
    if recipe.model.adapter_name_or_path:
        model = apply_method(recipe, model, work.say).model
    return model, tokenizer


def _words(work: Work, recipe: Recipe) -> tuple[Any, Any]:
    """A language model, and its tokenizer with the chat template that training will use."""
    from luthier.data import prepare
    from luthier.engine.precision import pick_device, pick_dtype
    from luthier.models import load_model, load_tokenizer

    chosen, device = recipe.model, pick_device()
    model = load_model(chosen, pick_dtype(chosen.dtype, device.type)).to(device)
    tokenizer = load_tokenizer(chosen.model_name_or_path, chosen.model_revision, chosen.trust_remote_code)
    prepared = prepare(recipe.data, tokenizer, which="train", say=work.say)
    tokenizer.chat_template = prepared.chat_template or tokenizer.chat_template
    return model, tokenizer
