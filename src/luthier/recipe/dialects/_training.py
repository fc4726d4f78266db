# SPDX-License-Identifier: Apache-2.0
"""The keys of transformers' `TrainingArguments`, which TRL and LLaMA-Factory share (and Axolotl in part)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.recipe.dialects import _optim, _projected
from luthier.recipe.dialects._draft import OFF, Only
from luthier.recipe.text import said

if TYPE_CHECKING:
    from luthier.recipe.dialects._draft import Draft

PLACES = {
    "learning_rate": "optim.learning_rate",
    "weight_decay": "optim.weight_decay",
    "adam_beta1": "optim.adam_beta1",
    "adam_beta2": "optim.adam_beta2",
    "adam_epsilon": "optim.adam_epsilon",
    "max_grad_norm": "optim.max_grad_norm",
    "num_train_epochs": "train.num_train_epochs",
    "max_steps": "train.max_steps",
    "per_device_train_batch_size": "train.per_device_train_batch_size",
    "per_device_eval_batch_size": "train.per_device_eval_batch_size",
    "gradient_accumulation_steps": "train.gradient_accumulation_steps",
    "gradient_checkpointing": "train.gradient_checkpointing",
    "activation_checkpointing": "train.gradient_checkpointing",
    "torch_compile": "train.torch_compile",
    "save_total_limit": "train.save_total_limit",
    "load_best_model_at_end": "train.load_best_model_at_end",
    "seed": "seed",
    "output_dir": "output_dir",
}
_SHARDED = "remove it: Luthier does not shard models; `torchrun -m luthier train` runs several processes"
ONLY = {
    "push_to_hub": Only((False,), "write push_to_hub: true, or false"),
    "fp16": Only((False,), "write bf16: true; Luthier trains in bfloat16 or float32"),
    "fp16_full_eval": Only((False,), "remove it: evaluation uses the numbers of training"),
    "neftune_noise_alpha": Only(OFF, "remove it: Luthier has no NEFTune"),
    "label_smoothing_factor": Only((0, 0.0), "remove it: Luthier has no label smoothing for this loss"),
    "deepspeed": Only(OFF, _SHARDED),
    "fsdp": Only((*OFF, [], {}), _SHARDED),
    "fsdp_config": Only((*OFF, {}), _SHARDED),
    "resume_from_checkpoint": Only(OFF, "remove it, and go on with `luthier train RECIPE --resume`"),
    "lr_scheduler_kwargs": Only((None, {}), "remove it: the shapes linear, cosine and constant have no keys"),
    "do_predict": Only((False,), "remove it, and ask the run with `luthier generate` or `luthier evaluate`"),
    "do_train": Only((True,), "write do_train: true; a model alone is evaluated by `luthier evaluate`"),
    "auto_find_batch_size": Only((False,), "write per_device_train_batch_size: a number"),
}
IDLE = (
    "accelerator_config",
    "average_tokens_across_devices",
    "bf16_full_eval",
    "data_seed",
    "dataloader_*",
    "ddp_*",
    "debug",
    "disable_tqdm",
    "eval_accumulation_steps",
    "eval_delay",
    "eval_do_concat_batches",
    "eval_on_start",
    "full_determinism",
    "gradient_checkpointing_kwargs",
    "activation_checkpointing_kwargs",
    "group_by_length",
    "hub_*",
    "ignore_data_skip",
    "include_*",
    "label_names",
    "length_column_name",
    "liger_kernel_config",
    "local_rank",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    "logging_dir",
    "logging_first_step",
    "logging_nan_inf_filter",
    "no_cuda",
    "overwrite_output_dir",
    "prediction_loss_only",
    "project",
    "remove_unused_columns",
    "run_name",
    "save_on_each_node",
    "save_only_model",
    "save_safetensors",
    "skip_memory_metrics",
    "tf32",
    "torch_compile_backend",
    "torch_compile_mode",
    "torch_empty_cache_steps",
    "train_sampling_strategy",
    "use_cache",
    "use_cpu",
    "use_liger_kernel",
)
READ = (
    "bf16",
    "do_eval",
    "eval_steps",
    "eval_strategy",
    "evaluation_strategy",
    "greater_is_better",
    "logging_steps",
    "logging_strategy",
    "lr_scheduler_type",
    "metric_for_best_model",
    "optim",
    *_projected.ARGUMENTS,
    "report_to",
    "save_steps",
    "save_strategy",
    "warmup_ratio",
    "warmup_steps",
)
KEYS = (*PLACES, *ONLY, *IDLE, *READ)

SHAPES = {name: name for name in ("linear", "cosine", "constant", "constant_with_warmup")}


def training(draft: Draft) -> None:
    """Read what a table cannot say of `TrainingArguments`."""
    _optim.optimiser(draft, "optim")
    draft.choose("lr_scheduler_type", "optim.lr_scheduler_type", SHAPES, "choose one, as in lr_scheduler_type: cosine")
    warm_up(draft)
    trackers(draft)
    logging(draft)
    saving(draft)
    best(draft)
    evaluation(draft)
    publishing(draft)


def publishing(draft: Draft) -> None:
    """Read `push_to_hub` and where to; off, the tables say that these have no effect."""
    if draft.given.get("push_to_hub") is not True:
        return
    draft.put("train.push_to_hub", True, "push_to_hub")
    for key in ("hub_model_id", "hub_private_repo"):
        if draft.has(key):
            draft.put(f"train.{key}", draft.take(key), key)
    draft.note("push_to_hub: uploaded once, when the run has ended")


def epochs(draft: Draft, default: float) -> None:
    """Set the other tool's default of epochs, where no number of steps goes before it."""
    steps = draft.given.get("max_steps")
    if not isinstance(steps, int) or steps <= 0:
        draft.default("train.num_train_epochs", default)


def warm_up(draft: Draft, default: float | None = 0.0) -> None:
    """Read `warmup_steps` (below 1 it is a share, as in transformers 5) and `warmup_ratio`."""
    steps, ratio = draft.take("warmup_steps"), draft.take("warmup_ratio")
    if draft.given.get("lr_scheduler_type", draft.given.get("lr_scheduler")) == "constant":
        draft.ignore("warmup_steps", "warmup_ratio")
        draft.put("optim.warmup_ratio", 0.0)
    elif isinstance(steps, float) and 0 < steps < 1:
        draft.put("optim.warmup_ratio", steps, "warmup_steps")
        draft.ignore("warmup_ratio")
    elif steps:
        draft.put("optim.warmup_steps", steps, "warmup_steps")
        draft.put("optim.warmup_ratio", 0.0)
        draft.ignore("warmup_ratio")
    else:
        draft.ignore("warmup_steps")
        if ratio is not None:
            draft.put("optim.warmup_ratio", ratio, "warmup_ratio")
    if default is not None:
        draft.default("optim.warmup_ratio", default)


def trackers(draft: Draft) -> None:
    """Read `report_to`."""
    value = draft.take("report_to")
    names = [value] if isinstance(value, str) else value
    if names in (["all"], ["swanlab"], ["mlflow"]):
        draft.refuse("report_to", f"received {said(value)}", "tensorboard, wandb, none", "name these, as in [wandb]")
    elif names is not None:
        draft.put("train.report_to", [] if names == ["none"] else names, "report_to")


def logging(draft: Draft) -> None:
    """Read `logging_steps` and `logging_strategy`."""
    strategy = draft.take("logging_strategy", "steps")
    if strategy == "steps":
        if draft.has("logging_steps"):
            draft.put("train.logging_steps", draft.take("logging_steps"), "logging_steps")
        draft.ignore("logging_strategy")
    else:
        draft.ignore("logging_strategy", "logging_steps")
        draft.note(f"logging_strategy {strategy}: every step is logged here, in metrics.jsonl")


def saving(draft: Draft) -> None:
    """Read `save_strategy` and `save_steps`; the end of a run is always saved."""
    if "save_total_limit" in draft.given and draft.take("save_total_limit") is None:
        draft.put("train.save_total_limit", None, "save_total_limit")  # all of them, as here
    strategy, steps = _strategy(draft, "save_strategy"), draft.take("save_steps")
    if strategy == "steps" and (draft.has("save_strategy") or steps):
        draft.put("train.save_steps", 500 if steps is None else steps, "save_steps", "save_strategy")
        return
    draft.ignore("save_steps")
    if strategy in ("no", "epoch"):
        draft.put("train.save_steps", 0, "save_strategy")
        draft.note(f"save_strategy {strategy}: written at the end (and on Ctrl-C); `save_steps: 100` writes more often")
    elif strategy != "steps":
        draft.refuse("save_strategy", f"received {said(strategy)}", "no, steps", "write save_strategy: steps")


def best(draft: Draft) -> None:
    """Read `metric_for_best_model` and `greater_is_better`, which mean nothing without `load_best_model_at_end`."""
    metric, greater = draft.take("metric_for_best_model"), draft.take("greater_is_better")
    name = str(metric or "loss").removeprefix("eval_")
    if draft.given.get("load_best_model_at_end") is not True or (name == "loss" and not greater):
        draft.ignore("metric_for_best_model", "greater_is_better")
        return
    draft.put("train.metric_for_best_model", name, "metric_for_best_model")
    draft.put("train.greater_is_better", greater, "greater_is_better")


def evaluation(draft: Draft) -> None:
    """Read `eval_strategy` (once `evaluation_strategy`) and `eval_steps`. Call it when `data.eval` is known.

    Where the recipe evaluates nothing, `data.eval` is left out.
    """
    name = "evaluation_strategy" if draft.has("evaluation_strategy") else "eval_strategy"
    strategy, steps = _strategy(draft, name, "no"), draft.take("eval_steps")
    draft.taken.add("eval_strategy")
    wanted = strategy != "no" or draft.given.get("do_eval") is True
    draft.ignore("do_eval")
    rows = "eval" in draft.tree.get("data", {})
    if rows and not wanted:
        keys = draft.moved.pop("data.eval")
        draft.tree["data"] = {key: value for key, value in draft.tree["data"].items() if key != "eval"}
        draft.ignore(*(key for key in keys if not any(key in others for others in draft.moved.values())))
        draft.note("nothing is evaluated during training: the recipe asks for none (do_eval, eval_strategy)")
    if strategy == "steps" and rows:
        if steps is None:  # transformers: as often as it logs
            steps = draft.given.get("logging_steps", 500)
        draft.put("train.eval_steps", steps, "eval_steps", name)
        return
    draft.ignore("eval_steps", "eval_strategy", "evaluation_strategy")
    if strategy == "steps":
        draft.note(f"{name} steps: the recipe names no rows to evaluate on; data.eval=… would")
    elif strategy == "epoch":
        _each_epoch(draft, name)
    elif strategy != "no":
        draft.refuse(name, f"received {said(strategy)}", "no, steps, epoch", "write eval_strategy: steps")


def _each_epoch(draft: Draft, name: str) -> None:
    if draft.given.get("load_best_model_at_end") is True:
        fix = "write eval_strategy: steps, eval_steps: a number of steps, save_strategy: steps"
        draft.refuse(name, "epoch, with load_best_model_at_end", "evaluations at steps", fix)
    else:
        draft.note(f"{name} epoch: evaluated at the end only; `eval_steps: 100` and `{name}: steps` do it more often")


def _strategy(draft: Draft, key: str, default: str = "steps") -> Any:
    value = draft.take(key, default)
    return "no" if value is False else value  # YAML 1.1 reads a bare `no` as false


def numbers(draft: Draft, *names: str) -> None:
    """Read the dtype's keys and `bf16`. Mixed precision decides: it is what the forward pass computes in.

    Args:
        draft: The recipe.
        names: The dialect's names for the dtype of the weights.
    """
    spelt = {"auto": "auto", "bfloat16": "bfloat16", "bf16": "bfloat16", "float32": "float32", "fp32": "float32"}
    for name in names:
        value = draft.take(name)
        if value is None:
            draft.ignore(name)
        elif value not in tuple(spelt):
            allowed = "auto, bfloat16, float32"
            draft.refuse(name, f"received {said(value)}", allowed, f"write {name}: bfloat16")
    given = [name for name in names if draft.given.get(name) in tuple(spelt)]
    mixed = draft.take("bf16")
    if mixed is True:
        draft.put("model.dtype", "bfloat16", "bf16", *given)
        if any(spelt[draft.given[name]] == "float32" for name in given):
            draft.note(f"{given[0]} float32 with bf16: the forward pass computes in bfloat16; what trains is float32")
    elif mixed == "auto":
        draft.put("model.dtype", "auto", "bf16", *given)
    elif given:
        draft.put("model.dtype", spelt[draft.given[given[0]]], given[0])
        draft.ignore("bf16")
    elif mixed is False:
        draft.put("model.dtype", "float32", "bf16")
    elif mixed is not None:
        draft.refuse("bf16", f"received {said(mixed)}", "true, false", "write bf16: true")
