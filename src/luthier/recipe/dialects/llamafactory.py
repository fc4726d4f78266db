# SPDX-License-Identifier: Apache-2.0
"""LLaMA-Factory: flat YAML with `stage`, `finetuning_type` and `template`; data sets named in `dataset_info.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.recipe.dialects import _named_sets, _objective, _optim, _projected, _quantized, _training
from luthier.recipe.dialects._draft import Asked, Draft, Only
from luthier.recipe.dialects._templates import chat_template
from luthier.recipe.text import said

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.recipe.dialects._draft import Translation

NAME = "LLaMA-Factory"
PLACES = _training.PLACES | {
    "model_name_or_path": "model.model_name_or_path",
    "model_revision": "model.model_revision",
    "trust_remote_code": "model.trust_remote_code",
    "adapter_name_or_path": "model.adapter_name_or_path",
    "cutoff_len": "data.max_length",
    "default_system": "data.system",
}
_OTHER = "remove it: Luthier has no such method or start; `lora` takes use_rslora and use_dora"
_MODEL = "remove it: the model is trained as it was loaded"
ONLY = _training.ONLY | {
    "pissa_init": Only((False,), _OTHER),
    "use_badam": Only((False,), _OTHER),
    "use_adam_mini": Only((False,), _OTHER),
    "use_muon": Only((False,), _OTHER),
    "use_llama_pro": Only((False,), _OTHER),
    "create_new_adapter": Only((False,), "merge the adapter first: luthier merge RUN"),
    "shift_attn": Only((False,), _MODEL),
    "mixture_of_depths": Only((), _MODEL),
    "rope_scaling": Only((), "set it in the model's config.json"),
    "resize_vocab": Only((False,), _MODEL),
    "add_tokens": Only((), _MODEL),
    "add_special_tokens": Only((), _MODEL),
    "new_special_tokens": Only((), _MODEL),
    "streaming": Only((False,), "remove it: tokens are kept on disk and mapped, not held in memory"),
    "mix_strategy": Only(("concat",), "write mix_strategy: concat; data.train takes a weight for each source"),
    "interleave_probs": Only((), "remove it; data.train takes a weight for each source"),
    "tokenized_path": Only((), "remove it: tokens are cached by their content"),
    "use_dft_loss": Only((False,), "remove it: the objective sft is the plain likelihood"),
    "efficient_eos": Only((False,), "remove it: the chat template says what ends a turn"),
    "predict_with_generate": Only((False,), "remove it, and ask the run with `luthier generate`"),
    "compute_accuracy": Only((False,), "remove it; `luthier evaluate` counts exact answers"),
    "pure_bf16": Only((False,), "write bf16: true; what trains is float32"),
    "tool_format": Only((), "remove it: turns of tools are not trained"),
    "ref_model_quantization_bit": Only((), "remove it: the reference is not quantised"),
    "reward_model": Only((), "write stage: rm or dpo; Luthier has no PPO"),
}
IDLE = (
    *_training.IDLE,
    "badam_*",
    "cache_dir",
    "data_shared_file_system",
    "dataset_shards",
    "disable_gradient_checkpointing",
    "enable_liger_kernel",
    "enable_thinking",
    "flash_attn",
    "include_effective_tokens_per_second",
    "low_cpu_mem_usage",
    "offload_folder",
    "overwrite_cache",
    "plot_loss",
    "ppo_*",
    "preprocessing_batch_size",
    "preprocessing_num_workers",
    "print_param_status",
    "ray_*",
    "swanlab_*",
    "upcast_layernorm",
    "upcast_lmhead_output",
    "use_fast_tokenizer",
    "use_reentrant_gc",
    "use_unsloth",
    "use_unsloth_gc",
)
OBJECTIVE = {
    "pref_beta": "beta",
    "pref_ftx": "sft_weight",
    "dpo_label_smoothing": "label_smoothing",
    "simpo_gamma": "simpo_gamma",
    "kto_chosen_weight": "desirable_weight",
    "kto_rejected_weight": "undesirable_weight",
    "ref_model": "reference",
}
LORA = {
    "lora_rank": "method.r",
    "lora_alpha": "method.lora_alpha",
    "lora_dropout": "method.lora_dropout",
    "use_rslora": "method.use_rslora",
    "use_dora": "method.use_dora",
}
READ = (
    "additional_target",
    "dataset",
    "dataset_dir",
    "double_quantization",
    "eval_dataset",
    "finetuning_type",
    "freeze_extra_modules",
    "freeze_trainable_layers",
    "freeze_trainable_modules",
    "infer_dtype",
    "lora_target",
    "mask_history",
    "max_samples",
    "neat_packing",
    "packing",
    "pref_loss",
    "quantization_bit",
    "quantization_method",
    "quantization_type",
    "ref_model_adapters",
    "stage",
    "template",
    "train_on_prompt",
    "val_size",
    "eval_on_each_dataset",
)
KEYS = frozenset(
    {*PLACES, *ONLY, *IDLE, *LORA, *OBJECTIVE, *READ, *_training.KEYS, *_optim.LORAPLUS, *_projected.FACTORY}
)
MARKS = frozenset(
    {"stage", "finetuning_type", "template", "cutoff_len", "dataset_dir", "lora_rank", "lora_target", "pref_loss"}
)
STAGES = {"pt": "sft", "sft": "sft", "rm": "reward", "dpo": "dpo", "kto": "kto"}
LOSSES = {"sigmoid": "dpo", "hinge": "dpo", "ipo": "ipo", "orpo": "orpo", "simpo": "simpo"}


def recognises(tree: Mapping[str, Any]) -> bool:
    """Whether a tree has a key of LLaMA-Factory's."""
    return not MARKS.isdisjoint(tree)


def translate(tree: Mapping[str, Any], asked: Asked = Asked()) -> Translation:  # noqa: B008 - frozen
    """Translate a recipe of LLaMA-Factory."""
    draft = Draft(dialect=NAME, given=tree, asked=asked)
    stage, name = _objective_of(draft)
    _rows(draft, stage)
    _shown(draft, stage)
    _method(draft)
    _bits(draft)
    _training.numbers(draft, "infer_dtype")
    _training.training(draft)
    draft.table(PLACES, ONLY, IDLE)
    draft.default("data.max_length", 2048)
    draft.default("optim.learning_rate", 5e-5)
    _training.epochs(draft, 3.0)
    if name == "simpo":
        draft.default("objective.beta", 0.1)  # its pref_beta
    return draft.done(KEYS)


def _objective_of(draft: Draft) -> tuple[str, str]:
    """Read `stage` and `pref_loss`; return the stage and our objective."""
    stage, loss = draft.take("stage", "sft"), draft.take("pref_loss", "sigmoid")
    if stage not in tuple(STAGES):
        draft.refuse("stage", f"received {said(stage)}", f"known: {', '.join(STAGES)}", "write one of these")
        stage = "sft"
    name, because = STAGES[stage], f"stage {stage}"
    if stage == "dpo" and loss in tuple(LOSSES):
        name, because = LOSSES[loss], f"stage dpo with pref_loss {loss}"
    elif stage == "dpo":
        fix = "write stage: kto" if loss == "kto_pair" else "write one of these"
        draft.refuse("pref_loss", f"received {said(loss)}", f"known: {', '.join(LOSSES)}", fix)
    if asked := _objective.overridden(draft):
        name, because = asked, "the command line says so"
    if name == "dpo" and loss == "hinge":
        draft.put("objective.loss_type", loss, "pref_loss")
    draft.ignore(*(["pref_loss"] if stage != "dpo" else []))
    _objective.settle(draft, name, OBJECTIVE, because)
    draft.moved["objective.name"] = tuple(key for key in ("stage", "pref_loss") if key in draft.given)
    if draft.has("ref_model_adapters"):
        fix = "write ref_model: the folder of a merged model (`luthier merge`)"
        draft.refuse("ref_model_adapters", f"received {said(draft.take('ref_model_adapters'))}", "a model", fix)
    return stage, name


def _rows(draft: Draft, stage: str) -> None:
    """Read which data sets there are."""
    most, size = draft.take("max_samples"), draft.take("val_size", 0)
    for key, place in {"dataset": "data.train", "eval_dataset": "data.eval"}.items():
        if place in draft.asked.places:
            draft.ignore(key)
            continue
        sources = _named_sets.sets(draft, key, stage)
        if sources and most is not None:
            sources = [source | {"max_rows": min(most, source.get("max_rows", most))} for source in sources]
        if sources:
            draft.put(place, sources, key, "dataset_dir", "max_samples")
    draft.taken |= {"dataset_dir", "max_samples"}
    draft.ignore("eval_on_each_dataset")
    if size and "data.eval" not in draft.asked.places:
        fix = "write val_size=0, and eval_dataset: NAME for rows of their own"
        draft.refuse("val_size", f"received {said(size)}", "rows are not split at random here", fix)
    else:
        draft.ignore("val_size")


def _shown(draft: Draft, stage: str) -> None:
    """Read the template, what is scored, and packing."""
    if stage == "pt":
        draft.ignore("template", "train_on_prompt", "mask_history")
        draft.put("data.loss_on", "all", "stage")
        draft.note("stage pt: documents are packed whole; LLaMA-Factory joins them and cuts pieces of cutoff_len")
    else:
        chat_template(draft, "template")
        prompt, last = draft.take("train_on_prompt", False), draft.take("mask_history", False)
        if stage == "sft" and (prompt or last):
            draft.put("data.loss_on", "all" if prompt else "last", "train_on_prompt" if prompt else "mask_history")
        draft.ignore(
            *[key for key in ("train_on_prompt", "mask_history") if not draft.given.get(key) or stage != "sft"]
        )
    packing, neat = draft.take("packing"), draft.take("neat_packing")
    if STAGES[stage] != "sft":
        return draft.ignore("packing", "neat_packing")
    if packing is not None or neat:
        draft.put("data.packing", bool(packing or neat), "packing", "neat_packing")
        if packing and not neat:
            draft.note("packing: packed rows never see each other here, as with neat_packing")
    draft.ignore(*(["neat_packing"] if neat is not True else []))
    return draft.default("data.packing", stage == "pt")


def _method(draft: Draft) -> None:
    """Read `finetuning_type` and LoRA's keys."""
    kind = draft.take("finetuning_type", "lora")
    freeze = ("freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules")
    if kind not in ("lora", "full", "freeze"):
        draft.refuse("finetuning_type", f"received {said(kind)}", "lora, full, freeze", "write one of these")
    if kind != "lora":
        if kind != "full":
            _projected.no_switches(draft, "freeze")
        if kind != "full" or not _projected.from_switches(draft):
            draft.put("method.name", "freeze" if kind == "freeze" else "full", "finetuning_type")
        draft.ignore(*LORA, *_optim.LORAPLUS, "lora_target", "additional_target", *(freeze if kind != "freeze" else ()))
        for key in (key for key in freeze if kind == "freeze" and draft.has(key)):
            draft.put(f"method.{key}", _names(draft.take(key)), key)
        return
    draft.ignore(*freeze)
    _projected.no_switches(draft, "lora")
    draft.put("method.name", "lora", "finetuning_type")
    draft.table(LORA, {}, ())
    _optim.loraplus(draft)
    draft.default("method.r", 8)
    rank = draft.tree["method"]["r"]
    if isinstance(rank, int):  # else the strict reading says what is wrong with it
        draft.default("method.lora_alpha", 2 * rank)
    target, extra = draft.take("lora_target"), draft.take("additional_target")
    if target is not None:
        draft.put(
            "method.target_modules", "all-linear" if target in ("all", ["all"]) else _names(target), "lora_target"
        )
    if extra is not None:
        draft.put("method.modules_to_save", _names(extra), "additional_target")


def _bits(draft: Draft) -> None:
    """Read what the base is quantised to."""
    bits, how = draft.take("quantization_bit"), draft.take("quantization_method", "bnb")
    kind, double = draft.take("quantization_type", "nf4"), draft.take("double_quantization", True)
    if bits is None:
        return draft.ignore("quantization_method", "quantization_type", "double_quantization")
    if how not in ("bnb", "bitsandbytes"):
        draft.refuse("quantization_method", f"received {said(how)}", "bnb", "write bnb")
    if bits == 4:
        asked = _quantized.Asked(kind, "quantization_type", double, "double_quantization")
        return _quantized.put_four(draft, asked, "quantization_bit")
    draft.ignore("quantization_type", "double_quantization")
    if bits == 8:
        return draft.put("model.quantization", "int8", "quantization_bit")
    return draft.refuse("quantization_bit", f"received {said(bits)}", "4 or 8", "write one of these")


def _names(value: Any) -> Any:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value
