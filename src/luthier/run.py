# SPDX-License-Identifier: Apache-2.0
"""One recipe to one result: the only place that wires everything.

A run folder holds recipe.yaml (resolved, with origins), metrics.jsonl, ledger.json, summary.json, checkpoints/ and
the result as adapter/ (PEFT's layout) or model/ (transformers' layout).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from luthier.core import registry
from luthier.core.errors import RunFailed
from luthier.data import eval_batches
from luthier.engine import folder as run_folder
from luthier.engine import machine
from luthier.engine._callback import make_watchers
from luthier.engine.distributed import joined, place_here
from luthier.engine.loop import Work, fit
from luthier.engine.optim import check_optimizer, tell_optim
from luthier.engine.precision import pick_device, pick_dtype, routed_float32
from luthier.engine.reference import asked_by, check_reference
from luthier.engine.regional import compile_layers
from luthier.engine.rows import Rows, bind, read_rows
from luthier.engine.schedule import warmup_steps
from luthier.engine.starting import settle_start
from luthier.engine.summary import summarise
from luthier.export.adapted import load_adapted
from luthier.export.adapter import fill_adapter, is_adapter
from luthier.export.hub import check_run, push_run
from luthier.models import load_model, load_tokenizer
from luthier.models.fuse import fuse
from luthier.models.probe import prove_forest, unit_of
from luthier.models.purpose import purpose_of, read_purpose
from luthier.models.quantized import told, write_record
from luthier.models.save import save_words
from luthier.models.threads import fitting_threads
from luthier.planning.ahead import Ahead
from luthier.planning.before import refuse_before
from luthier.recipe import Model, Recipe, Resolved, entry_config, load_recipe
from luthier.recipe.tasks import task_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from luthier.core.tasks import Labels
    from luthier.core.trainable import Trainable
    from luthier.engine._callback import Callback

    Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: Where everything was written.
        summary: The contents of summary.json.
        model: The trained model, still with its method applied.
        tokenizer: Its tokenizer, with the chat template it was trained with.
        trainable: The method's handle on the model (merge, disable).
    """

    folder: Path
    summary: dict[str, Any]
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    trainable: Trainable


def train(
    recipe: Recipe | Resolved | dict[str, Any] | str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    say: Say = lambda _: None,
    callbacks: Sequence[str] = (),
) -> RunResult:
    """Fine-tune a model as a recipe says.

    Args:
        recipe: A recipe, the same tree, or a YAML file.
        resume: Go on from the newest whole checkpoint in `output_dir`, to the same bits as without the stop; where
            there is none, begin; where the run is finished, keep its result.
        overwrite: Replace a run that stands in `output_dir`.
        say: Receives one line at a time about what happens.
        callbacks: Names of callbacks besides `train.report_to`.

    Raises:
        UserError: Something in the recipe, the data or the model cannot be used; nothing was trained.
        RunFailed: The run started and cannot go on.
        Interrupted: Stopped by Ctrl-C and saved.
    """
    resolved = recipe if isinstance(recipe, Resolved) else load_recipe(recipe)
    notes = () if resolved is recipe else resolved.notes  # whoever resolved another tool's recipe has told them
    recipe, folder = resolved.recipe, Path(resolved.recipe.output_dir)
    with joined() as ranks:
        say = say if ranks.first else lambda _: None
        for note in notes:
            say(note)
        watchers = make_watchers(folder, (*callbacks, *recipe.train.report_to) if ranks.first else ())
        with run_folder.entered(resolved, ranks, resume=resume, overwrite=overwrite) as summary:
            if summary:
                say(f"{folder}: this run is finished; its result is kept, there is nothing to do")
                return _reopen(recipe, folder, summary, say)
            check_optimizer(recipe.optim)
            check_run(recipe)
            idle = machine.resident_bytes()
            with machine.phase("load"):
                rows = ranks.one_first(lambda: read_rows(recipe, say, ranks))
            with routed_float32(pick_device().type == "cpu" and pick_dtype(recipe.model.dtype) == torch.float32):
                with machine.phase("load"):
                    refuse_before(recipe, rows)
                    model, trainable = _build(recipe, rows.labels, say)
                ranks.wait()  # the memory that is free is looked at when every rank holds its model
                ahead = Ahead.of(recipe, rows, trainable, say, idle)
                with fitting_threads(model) as threads, machine.kept_pages():
                    say(machine.where(model.device, threads))
                    ahead = ahead.timed(rows)
                    work = open_run(resolved, rows, trainable, resume=resume, callbacks=watchers, say=say)
                    machine.reset_peak()
                    summary = summarise(resolved, fit(work, resume=resume), trainable, ranks=ranks)
            summary["plan"] = ahead.against(summary)
            return close_run(work, rows, summary)


def open_run(
    resolved: Resolved, rows: Rows, trainable: Trainable, *, resume: bool, callbacks: Mapping[str, Callback], say: Say
) -> Work:
    """Write what a run begins with into its folder, and give what the loop needs."""
    recipe, folder = resolved.recipe, Path(resolved.recipe.output_dir)
    objective = bind(recipe, rows.labels)
    held_out, refer, began = rows.eval_rows, None, time.process_time()
    if objective.reference:  # before anything is written or trained: what it says is of the policy's first state
        other = partial(load, dtype=recipe.model.dtype)
        refer, held_out = rows.ranks.one_first(lambda: settle_start(recipe, rows, trainable, objective, other, say))
    asked = time.process_time() - began
    run_folder.begin(resolved, rows.ledgers, rows.ranks, resume=resume)
    return Work(
        recipe=recipe,
        trainable=trainable,
        objective=objective,
        total_steps=rows.batches.total_steps,
        batches=rows.batches.step,
        eval_batches=() if held_out is None else eval_batches(held_out, recipe.data, recipe.train),
        refer=refer,
        asked_cpu_seconds=asked,
        folder=folder,
        data=rows.train.digest(),
        callbacks=callbacks,
        say=say,
        ranks=rows.ranks,
    )


def close_run(work: Work, rows: Rows, summary: dict[str, Any]) -> RunResult:
    """Write the result of a run that has ended, and then its summary."""
    model: Any = work.trainable.model
    purpose = purpose_of(work.recipe, task_of(work.recipe), rows.labels)

    def save(writing: Path) -> None:
        work.trainable.save(writing)
        if purpose:
            purpose.write(writing, model if work.trainable.folder == "model" else None)
        write_record(model, writing)
        save_words(rows.tokenizer, model, writing)

    if work.objective.reference:
        summary["reference_cpu_seconds"] = work.asked_cpu_seconds
    run_folder.finish(work.folder, work.trainable.folder, save, summary, work.ranks)
    if work.ranks.first:
        push_run(work.recipe, work.folder, work.trainable, work.say)
    parts = {"model": model, "tokenizer": rows.tokenizer, "trainable": work.trainable}
    return RunResult(folder=work.folder, summary=summary, **parts)


def preview(recipe: Recipe | Resolved | dict[str, Any] | str | Path, *, say: Say = lambda _: None) -> dict[str, Any]:
    """Do everything that comes before training, and tell what training would be. Nothing is written but caches.

    Args:
        recipe: As for :func:`train`.
        say: Receives one line at a time about what happens.

    Returns:
        `steps, warmup_steps, epochs, rows, tokens, scored_tokens, trainable_parameters, total_parameters`; `tokens` are
        those of one epoch.

    Raises:
        UserError: As for :func:`train`.
    """
    resolved = recipe if isinstance(recipe, Resolved) else load_recipe(recipe)
    for note in () if resolved is recipe else resolved.notes:  # whoever resolved another tool's recipe has told them
        say(note)
    recipe = resolved.recipe
    check_optimizer(recipe.optim)
    rows = read_rows(recipe, say, place_here())
    with routed_float32(pick_device().type == "cpu" and pick_dtype(recipe.model.dtype) == torch.float32):
        refuse_before(recipe, rows)
        model, trainable = _build(recipe, rows.labels, say)
        Ahead.of(recipe, rows, trainable, say)
        if bind(recipe, rows.labels).reference:
            check_reference(asked_by(recipe, rows), trainable, rows, partial(load, dtype=recipe.model.dtype))
    steps = rows.batches.total_steps
    return {
        "fingerprint": resolved.fingerprint,
        "output_dir": recipe.output_dir,
        "steps": steps,
        "warmup_steps": warmup_steps(recipe.optim, steps),
        "epochs": rows.batches.epoch(steps),
        "rows": len(rows.train.rows),
        "tokens": int(rows.train.rows.lengths.sum()),
        "scored_tokens": int(rows.train.rows.scored.sum()),
        "trainable_parameters": trainable.num_trainable,
        "total_parameters": sum(p.numel() for p in model.parameters()),
    }


def load(run_or_model: str | Path, dtype: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a run's result, an adapter folder or a model, ready to generate.

    Args:
        run_or_model: A run folder, an adapter folder, a transformers folder, a hub name, or `embedded`.
        dtype: As in a recipe; by default that which it was trained in.

    Returns:
        The model (with its adapter, if there is one) and its tokenizer.

    Raises:
        UserError: There is nothing that can be loaded.
        RunFailed: A run has no result yet.
    """
    path, device = Path(run_or_model).expanduser(), pick_device()
    is_run = (path / "recipe.yaml").exists()
    if is_run and not any((path / name).is_dir() for name in ("adapter", "model")):
        raise RunFailed(str(path), "no result yet", "adapter/ or model/", "finish it with `luthier train --resume`")
    if is_adapter(path) or (is_run and (path / "adapter").is_dir()):
        model, tokenizer = load_adapted(path, lambda asked: pick_dtype(dtype or asked, device.type))
        return model.to(device), tokenizer
    asked = Model(model_name_or_path=str(run_or_model))
    if is_run:  # in the numbers that it was trained in
        place = {"model_name_or_path": str(path / "model"), "model_revision": None}
        asked = load_recipe(path / "recipe.yaml").recipe.model.model_copy(update=place)
    model = load_model(asked, pick_dtype(dtype or asked.dtype, device.type), task=None)
    return model.to(device), load_tokenizer(asked.model_name_or_path, None, asked.trust_remote_code)


def load_base(recipe: Recipe, labels: Labels | None, say: Say) -> PreTrainedModel:
    """Load the base, with a head for what the rows are labelled with, and prove that it runs forests."""
    device, task = pick_device(), task_of(recipe)
    dtype = pick_dtype(recipe.model.dtype, device.type)
    values = len(labels) if labels is not None else 1 if task == "SEQ_CLS" else None
    words: Any = {"task": task, "num_labels": values, "labels": labels, "seed": recipe.seed, "say": say}
    model = load_model(recipe.model, dtype, whole=recipe.method.get("modules_to_save") or (), **words).to(device)
    fuse(model)
    error = prove_forest(model, recipe.model.model_name_or_path)
    kind = f"{type(model).__name__} on {device} in {str(dtype).removeprefix('torch.')}"
    what = "a padded pass" if task == "SEQ_2_SEQ_LM" else "a forest"
    say(f"{kind}{told(model)}; {what} equals separate forwards to {error:.1e} {unit_of(model)}")
    return model


def _build(recipe: Recipe, labels: Labels | None, say: Say) -> tuple[PreTrainedModel, Trainable]:
    """The base with the method applied."""
    model = load_base(recipe, labels, say)
    trainable = apply_method(recipe, model, say)
    if recipe.train.torch_compile:
        say(f"{compile_layers(model)} layers are compiled at the first step")
    return model, trainable


def apply_method(recipe: Recipe, model: PreTrainedModel, say: Say) -> Trainable:
    """Rewire a model as the recipe's method says, from the recipe's seed."""
    torch.manual_seed(recipe.seed)  # the first numbers drawn are the method's own, whatever was loaded before
    method = registry.get("methods", recipe.method["name"])
    trainable: Trainable = method.apply(model, entry_config("method", recipe.method))
    if recipe.model.adapter_name_or_path:
        fill_adapter(trainable, Path(recipe.model.adapter_name_or_path))
    count, total = trainable.num_trainable, sum(p.numel() for p in model.parameters())
    say(f"{recipe.method['name']}: {count:,} of {total:,} parameters train ({count / total:.2%})")
    tell_optim(recipe.optim, trainable, say)
    return trainable


def _reopen(recipe: Recipe, folder: Path, summary: dict[str, Any], say: Say) -> RunResult:
    """A finished run as :func:`train` gave it."""
    whole = folder / "model"
    place = {"model_name_or_path": str(whole)} if whole.is_dir() else {"adapter_name_or_path": str(folder / "adapter")}
    again = recipe.model_copy(update={"model": recipe.model.model_copy(update=place)})
    model, trainable = _build(again, purpose.labels if (purpose := read_purpose(folder)) else None, say)
    _, tokenizer = load(folder)
    return RunResult(folder=folder, summary=summary, model=model, tokenizer=tokenizer, trainable=trainable)
