# SPDX-License-Identifier: Apache-2.0
"""What two keys cannot say together. Each row is one rule; a choice without effect is refused, never passed over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from luthier.core import registry
from luthier.core.errors import RecipeError, did_you_mean
from luthier.recipe.optimizers import entry_of
from luthier.recipe.tasks import default_objective, tasks_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from luthier.recipe.schema import Recipe


RESULTS = (("adapter",), ("model",), ("checkpoints",))  # what a run folder holds besides words


WHOLE = ("full", "freeze", "galore", "apollo")  # methods that move the base's own matrices
LINEAR = ("adamw", "lion", "sgd")  # optimisers whose moments are means of gradients and of their squares, as they are


def _own(reference: str | None, output_dir: str) -> bool:
    """Whether a reference is what the run itself writes."""
    if reference in (None, "start", "base"):
        return False
    path, folder = Path(reference or "").expanduser().resolve(), Path(output_dir).expanduser().resolve()
    return path.is_relative_to(folder) and path.relative_to(folder).parts[:1] in ((), *RESULTS)


def _best_key(recipe: Recipe) -> str | None:
    """The key, if any, with which a recipe says what is best otherwise than by default."""
    keys = ("metric_for_best_model", "greater_is_better")
    return next(
        (key for key in keys if getattr(recipe.train, key) != type(recipe.train).model_fields[key].default), None
    )


class Rule(NamedTuple):
    """A combination that is refused.

    Attributes:
        broken: Whether a recipe has it.
        where: The key to name.
        received: What is wrong with it.
        allowed: What would be right.
        fix: What to do.
    """

    broken: Callable[[Recipe], bool]
    where: str
    received: str
    allowed: str
    fix: str


RULES = (
    Rule(
        lambda r: r.train.eval_steps > 0 and not r.data.eval,
        "train.eval_steps",
        "no rows to evaluate on",
        "data.eval says which",
        "add data.eval, or remove train.eval_steps",
    ),
    Rule(
        lambda r: r.train.early_stopping_patience > 0 and not r.data.eval,
        "train.early_stopping_patience",
        "no rows to evaluate on",
        "it counts evaluations of data.eval that are no better",
        "add data.eval and train.eval_steps",
    ),
    Rule(
        lambda r: r.train.early_stopping_patience > 0 and not r.train.eval_steps,
        "train.early_stopping_patience",
        "one evaluation only, at the end",
        "it counts evaluations, which train.eval_steps asks for",
        "add train.eval_steps",
    ),
    Rule(
        lambda r: r.train.load_best_model_at_end and not (r.data.eval and r.train.eval_steps),
        "train.load_best_model_at_end",
        "nothing tells which model is best",
        "the best of the evaluations during training",
        "add data.eval and train.eval_steps",
    ),
    Rule(
        lambda r: _best_key(r) is not None and not (r.train.load_best_model_at_end or r.train.early_stopping_patience),
        "train.metric_for_best_model",
        "nothing asks which model is best",
        "train.load_best_model_at_end or train.early_stopping_patience does",
        "set one of them, or remove metric_for_best_model and greater_is_better",
    ),
    Rule(
        lambda r: r.train.greater_is_better is True and r.train.metric_for_best_model in ("loss", "eval_loss"),
        "train.greater_is_better",
        "true, for the loss",
        "a loss is better where it is lower",
        "name another train.metric_for_best_model, or remove greater_is_better",
    ),
    Rule(
        lambda r: not r.train.push_to_hub and (r.train.hub_model_id is not None or r.train.hub_private_repo),
        "train.push_to_hub",
        "false, with a repository to upload to",
        "true uploads the result when the run has ended",
        "set train.push_to_hub: true, or remove hub_model_id and hub_private_repo",
    ),
    Rule(
        lambda r: 0 < r.train.max_steps < r.optim.warmup_steps,
        "optim.warmup_steps",
        "more steps than train.max_steps",
        "the warm-up is a part of the run",
        "lower optim.warmup_steps",
    ),
    Rule(
        lambda r: r.optim.warmup_steps > 0 and r.optim.lr_scheduler_type == "constant",
        "optim.warmup_steps",
        "lr_scheduler_type 'constant' has no warm-up",
        "constant_with_warmup, linear or cosine",
        "choose one of these, or remove optim.warmup_steps",
    ),
    Rule(
        lambda r: r.optim.momentum > 0 and entry_of(r.optim.optim) != "sgd",
        "optim.momentum",
        "only sgd has it",
        "adamw has adam_beta1",
        "remove optim.momentum, or set optim.optim: sgd",
    ),
    Rule(
        lambda r: r.optim.loraplus_lr_embedding is not None and r.optim.loraplus_lr_ratio is None,
        "optim.loraplus_lr_embedding",
        "no optim.loraplus_lr_ratio",
        "it is a part of LoRA+",
        "add optim.loraplus_lr_ratio: 16, or write optim.groups: [{parameters: embeddings, learning_rate: 1.0e-6}]",
    ),
    Rule(
        lambda r: (r.data.max_prompt_length or 0) >= r.data.max_length,
        "data.max_prompt_length",
        "as much as data.max_length or more",
        "less: prompt and answer together have max_length tokens at most",
        "lower it, or remove it: prompts then have what the longest answer leaves",
    ),
    Rule(
        lambda r: _own(r.objective.get("reference"), r.output_dir),
        "objective.reference",
        "a folder of this run's own",
        "another: output_dir is written anew, and a run that is resumed would find another reference",
        "choose another output_dir",
    ),
    Rule(
        lambda r: r.train.max_steps == 0,
        "train.max_steps",
        "0 steps",
        "1 or more, or -1 for num_train_epochs",
        "set one of these; `luthier train --dry-run` shows a run without training",
    ),
    Rule(
        lambda r: r.model.quantization != "none" and r.method["name"] in WHOLE,
        "model.quantization",
        "a quantised base, whose matrices cannot move, with a method that trains them",
        "methods that train beside the base: lora (QLoRA), adapter, ia3, prefix, prompt, ptuning, norm, bitfit",
        "set method: lora, or model.quantization: none",
    ),
    Rule(
        lambda r: r.method.get("layerwise") is True and r.train.gradient_accumulation_steps > 1,
        "method.layerwise",
        "several micro-batches a step, whose gradients are added up",
        "train.gradient_accumulation_steps: 1, or method.layerwise: false",
        "choose one of these",
    ),
    Rule(
        lambda r: r.method.get("layerwise") is True and r.optim.max_grad_norm > 0,
        "method.layerwise",
        "clipping by the norm of the whole gradient, which is never there at once",
        "optim.max_grad_norm: 0, or method.layerwise: false",
        "choose one of these",
    ),
    Rule(
        lambda r: r.method.get("moments") == "rotate" and entry_of(r.optim.optim) not in LINEAR,
        "method.moments",
        "rotate, with an optimiser whose moments are of 8 bits or factors",
        f"{', '.join(LINEAR)}, or moments keep or reset",
        "choose one of these",
    ),
    Rule(
        lambda r: r.model.bnb_4bit_use_double_quant and r.model.quantization not in ("nf4", "fp4"),
        "model.bnb_4bit_use_double_quant",
        "no 4-bit base",
        "it quantises the scales of nf4 and fp4",
        "set model.quantization: nf4, or remove it",
    ),
    Rule(
        lambda r: r.model.quantization != "none" and r.train.torch_compile,
        "train.torch_compile",
        "a quantised base",
        "compiled layers need matrices that are there",
        "remove one of the two",
    ),
)


def check(recipe: Recipe) -> None:
    """Hold a recipe to the rules.

    Raises:
        RecipeError: It breaks one, or names an optimiser or tracker that is not there.
        RecipeError: It breaks one, its objective does not train its task, or it names a tracker that is not there.
    """
    entry_of(recipe.optim.optim)
    for rule in RULES:
        if rule.broken(recipe):
            raise RecipeError(rule.where, rule.received, rule.allowed, rule.fix)
    _check_task(recipe)
    known = registry.entries("engine.callbacks")
    for name in recipe.train.report_to:
        if name not in known:
            raise RecipeError("train.report_to", f"unknown tracker {name!r}", did_you_mean(name, known), "correct it")


def _check_task(recipe: Recipe) -> None:
    name, asked = str(recipe.objective["name"]), recipe.model.task_type
    if asked == "auto" or asked in tasks_of(name):
        return
    received = f"{asked}, with objective {name}, which trains {' or '.join(tasks_of(name))}"
    fix = f"remove one of the two; model.task_type {asked} alone chooses objective {default_objective(asked)}"
    raise RecipeError("model.task_type", received, "a task that the objective trains", fix)
