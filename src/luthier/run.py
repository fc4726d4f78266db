# SPDX-License-Identifier: Apache-2.0
"""One recipe to one result: the only place that wires everything.

A run folder holds recipe.yaml (resolved, with origins), metrics.jsonl, ledger.json, summary.json, checkpoints/ and
the result as adapter/ (PEFT's layout) or model/ (transformers' layout).
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from luthier.core import registry
from luthier.core.errors import RecipeError, RunFailed
from luthier.data import Batches, eval_batches, prepare
from luthier.engine import machine
from luthier.engine.loop import Progress, Work, fit
from luthier.engine.precision import pick_device, pick_dtype, route_float32
from luthier.export.adapter import fill_adapter, load_adapter
from luthier.models import load_model, load_tokenizer
from luthier.models.fuse import fuse
from luthier.models.probe import prove_forest
from luthier.recipe import Recipe, Resolved, load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from luthier.core.trainable import Trainable
    from luthier.engine.callbacks import Callback


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
    say: Callable[[str], None] = lambda _: None,
    callbacks: Sequence[str] = (),
) -> RunResult:
    """Fine-tune a model as a recipe says.

    Args:
        recipe: A recipe, the same tree, or a YAML file.
        resume: Go on from the newest whole checkpoint in `output_dir`, to the same bits as without the stop.
        overwrite: Replace a run that stands in `output_dir`.
        say: Receives one line at a time about what happens.
        callbacks: Names of callbacks besides `train.report_to`.

    Raises:
        UserError: Something in the recipe, the data or the model cannot be used; nothing was trained.
        RunFailed: The run started and cannot go on.
        Interrupted: Stopped by Ctrl-C and saved.
    """
    resolved = recipe if isinstance(recipe, Resolved) else load_recipe(recipe)
    recipe = resolved.recipe
    folder = _open_folder(resolved, resume, overwrite)
    watchers: list[Callback] = [
        registry.get("engine.callbacks", name, "train.report_to").make(folder)
        for name in (*callbacks, *recipe.train.report_to)
    ]
    tokenizer = load_tokenizer(
        recipe.model.model_name_or_path, recipe.model.model_revision, recipe.model.trust_remote_code
    )
    prepared = prepare(recipe.data, tokenizer, which="train", say=say)
    held_out = prepare(recipe.data, tokenizer, which="eval", say=say) if recipe.data.eval else None
    tokenizer.chat_template = prepared.chat_template or tokenizer.chat_template
    (folder / "recipe.yaml").write_text(resolved.to_yaml(), encoding="utf-8")
    (folder / "ledger.json").write_text(json.dumps(prepared.ledger.to_json(), indent=2, ensure_ascii=False))
    batches = Batches(prepared.rows, recipe.data, recipe.train, recipe.seed)

    model, trainable, applied = _build(recipe, say)
    objective = registry.get("objectives", recipe.objective["name"])
    bound = objective.bind(objective.Config(**{k: v for k, v in recipe.objective.items() if k != "name"}))
    say(applied)
    machine.reset_peak()
    work = Work(
        recipe=recipe,
        trainable=trainable,
        objective=bound,
        total_steps=batches.total_steps,
        batches=batches.step,
        eval_batches=eval_batches(held_out.rows, recipe.data, recipe.train) if held_out else (),
        folder=folder,
        callbacks=watchers,
    )
    progress = fit(work, resume=resume)
    _write_result(folder, trainable, tokenizer)
    summary = summarise(resolved, progress, trainable)
    _write_json(folder / "summary.json", summary)
    return RunResult(folder=folder, summary=summary, model=model, tokenizer=tokenizer, trainable=trainable)


def load(run_or_model: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a run's result, an adapter folder or a model, ready to generate.

    Args:
        run_or_model: A run folder, a PEFT folder, a transformers folder, a hub name, or `embedded`.

    Returns:
        The model (with its adapter, if there is one) and its tokenizer.
    """
    from luthier.recipe import Model

    path = Path(run_or_model)
    if (path / "recipe.yaml").exists():
        results = [path / name for name in ("adapter", "model") if (path / name).is_dir()]
        if not results:
            raise RunFailed(str(path), "no result yet", "adapter/ or model/", "finish it with `luthier train --resume`")
        path = results[0]
    base, adapter = (str(run_or_model) if not path.exists() else str(path)), None
    if (path / "adapter_config.json").exists():
        adapter = path
        base = json.loads((path / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = load_model(Model(model_name_or_path=base), pick_dtype("auto", pick_device().type))
    if adapter is not None:
        load_adapter(model, adapter)
    model.to(pick_device())
    has_tokenizer = path.is_dir() and (path / "tokenizer.json").exists()
    return model, load_tokenizer(str(path) if has_tokenizer and adapter is None else base)


def _build(recipe: Recipe, say: Callable[[str], None]) -> tuple[PreTrainedModel, Trainable, str]:
    """Load the base, prove that it runs forests, apply the method."""
    device = pick_device()
    dtype = pick_dtype(recipe.model.dtype, device.type)
    routed = dtype == torch.float32 and device.type == "cpu" and route_float32()
    model = load_model(recipe.model, dtype).to(device)  # type: ignore[arg-type]
    fuse(model)
    error = prove_forest(model, recipe.model.model_name_or_path)
    say(f"{type(model).__name__} on {device} in {str(dtype).removeprefix('torch.')}{' through oneDNN' if routed else ''}; "
        f"a forest equals separate forwards to {error:.1e} nats")
    torch.manual_seed(recipe.seed)
    method = registry.get("methods", recipe.method["name"])
    config = method.Config.model_validate({k: v for k, v in recipe.method.items() if k != "name"})
    trainable: Trainable = method.apply(model, config)
    if recipe.model.adapter_name_or_path:
        fill_adapter(trainable, Path(recipe.model.adapter_name_or_path))
    if recipe.train.gradient_checkpointing is True:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    total = sum(p.numel() for p in model.parameters())
    share = trainable.num_trainable / total
    return model, trainable, f"{recipe.method['name']}: {trainable.num_trainable:,} of {total:,} parameters train ({share:.2%})"


def _open_folder(resolved: Resolved, resume: bool, overwrite: bool) -> Path:
    folder = Path(resolved.recipe.output_dir)
    old = folder / "recipe.yaml"
    if old.exists() and overwrite and not resume:
        shutil.rmtree(folder)
    elif old.exists() and resume:
        first = old.read_text(encoding="utf-8").split("\n", 1)[0]
        if resolved.fingerprint not in first:
            raise RecipeError(
                "output_dir",
                f"{folder} holds a run of another recipe",
                "resuming needs the same recipe",
                f"compare with {old}, or choose another output_dir",
            )
    elif old.exists():
        raise RecipeError(
            "output_dir", f"{folder} holds a run already", "an empty or new folder", "add --resume to go on, --overwrite to replace it"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError("output_dir", f"{folder} cannot be made ({error})", "a folder that can be written") from None
    return folder


def _write_result(folder: Path, trainable: Trainable, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the result beside its final place, then rename: a half-written one is never seen."""
    final, writing = folder / trainable.folder, folder / f".writing-{os.getpid()}"
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir()
    try:
        trainable.save(writing)
        tokenizer.save_pretrained(writing)
    except OSError as error:
        shutil.rmtree(writing, ignore_errors=True)
        raise RunFailed(
            str(final), f"could not be written ({error})", "the last checkpoint is whole", "free some space and use --resume"
        ) from error
    shutil.rmtree(final, ignore_errors=True)
    writing.rename(final)


def summarise(resolved: Resolved, progress: Progress, trainable: Trainable) -> dict[str, Any]:
    """The contents of summary.json."""
    return {
        "name": Path(resolved.recipe.output_dir).name,
        "fingerprint": resolved.fingerprint,
        "steps": progress.step,
        "tokens": progress.tokens,
        "scored_tokens": progress.scored_tokens,
        "seconds": progress.seconds,
        "cpu_seconds": progress.cpu_seconds,
        "tokens_per_second": progress.tokens / max(progress.seconds, 1e-9),
        "tokens_per_cpu_second": progress.tokens / max(progress.cpu_seconds, 1e-9),
        "peak_memory_bytes": machine.peak_memory_bytes(),
        "trainable_parameters": trainable.num_trainable,
        "total_parameters": sum(p.numel() for p in trainable.model.parameters()),
        "final_loss": progress.loss,
        "evaluation": {"loss": {k: {"value": v} for k, v in progress.evaluation.items()}} if progress.evaluation else {},
        "hardware": machine.hardware(),
        "versions": machine.versions(),
        "seed": resolved.recipe.seed,
    }


def _write_json(path: Path, tree: Any) -> None:
    writing = path.with_suffix(".writing")
    writing.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    writing.replace(path)
