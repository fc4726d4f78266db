# SPDX-License-Identifier: Apache-2.0
"""Axolotl: flat YAML with `base_model`, `adapter`, `datasets` and `micro_batch_size`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.recipe.dialects import _axolotl_loop, _axolotl_rows, _objective, _optim, _projected, _quantized, _training
from luthier.recipe.dialects._draft import OFF, Asked, Draft, Only
from luthier.recipe.dialects._templates import chat_template
from luthier.recipe.text import said

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.recipe.dialects._draft import Translation

NAME = "Axolotl"
_SAME = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "max_steps")
_SAME_TOO = ("gradient_accumulation_steps", "torch_compile", "save_total_limit", "load_best_model_at_end", "seed")
PLACES = {key: _training.PLACES[key] for key in (*_SAME, *_SAME_TOO, "output_dir")} | {
    "base_model": "model.model_name_or_path",
    "revision_of_model": "model.model_revision",
    "trust_remote_code": "model.trust_remote_code",
    "lora_model_dir": "model.adapter_name_or_path",
    "sequence_len": "data.max_length",
    "micro_batch_size": "train.per_device_train_batch_size",
    "eval_batch_size": "train.per_device_eval_batch_size",
    "num_epochs": "train.num_train_epochs",
    "early_stopping_patience": "train.early_stopping_patience",
    "default_system_message": "data.system",
}
_OTHER = "remove it: Luthier has no such method or start; `lora` takes peft_use_rslora and peft_use_dora"
_LATER = "remove it, and publish after training: `hf upload REPO OUTPUT_DIR`"
ONLY = {key: _training.ONLY[key] for key in ("deepspeed", "fsdp", "fsdp_config", "resume_from_checkpoint")} | {
    "fp16": Only((False,), "write bf16: true"),
    "float16": Only((False,), "write bf16: true"),
    "relora": Only(OFF, _OTHER),
    "lisa_n_layers": Only(OFF, _OTHER),
    "unfrozen_parameters": Only(
        (None, []), "write method.name=freeze and method.unfrozen_parameters=[…], without ranges of rows"
    ),
    "push_dataset_to_hub": Only((), _LATER),
    "noisy_embedding_alpha": Only(OFF, "remove it: Luthier has no NEFTune"),
    "neftune_noise_alpha": Only(OFF, "remove it: Luthier has no NEFTune"),
    "special_tokens": Only((None, {}), "set them in the tokenizer of the model, and remove this"),
    "tokens": Only((None, []), "add them to the tokenizer of the model, and remove this"),
    "rope_scaling": Only((), "set it in the model's config.json"),
    "sequence_parallel_degree": Only((1, None), "remove it"),
    "context_parallel_size": Only((1, None), "remove it"),
    "curriculum_sampling": Only((False,), "remove it: the order is drawn from `seed`"),
    "streaming": Only((False,), "remove it: tokens are kept on disk and mapped, not held in memory"),
    "pretraining_dataset": Only((), "write datasets: [{path: …, type: completion}]"),
    "mlflow_tracking_uri": Only((), "write wandb_project or use_tensorboard"),
    "comet_project_name": Only((), "write wandb_project or use_tensorboard"),
    "dpo_use_weighting": Only((False,), "remove it: Luthier does not weigh pairs by their probability (WPO)"),
    "trl": Only((None, {}), "remove it: Luthier has no GRPO"),
}
IDLE = (
    "auto_resume_from_checkpoints",
    "bfloat16",
    "cut_cross_entropy",
    "dataloader_*",
    "dataset_keep_in_memory",
    "dataset_prepared_path",
    "dataset_processes",
    "ddp_*",
    "debug",
    "device_map",
    "eager_attention",
    "eval_sample_packing",
    "eval_table_size",
    "experimental_skip_move_to_device",
    "flash_attention",
    "flash_attn_*",
    "flex_attention",
    "gptq",
    "gpu_memory_limit",
    "gradient_checkpointing_kwargs",
    "group_by_length",
    "hub_strategy",
    "is_falcon_derived_model",
    "is_llama_derived_model",
    "is_mistral_derived_model",
    "is_qwen_derived_model",
    "liger_*",
    "local_rank",
    "lora_fan_in_fan_out",
    "lora_mlp_kernel",
    "lora_o_kernel",
    "lora_qkv_kernel",
    "loss_watchdog_*",
    "low_cpu_mem_usage",
    "max_packed_sequence_len",
    "model_type",
    "multipack_real_batches",
    "pad_to_sequence_len",
    "plugins",
    "sample_packing_*",
    "save_only_model",
    "save_safetensors",
    "sdp_attention",
    "shuffle_merged_datasets",
    "strict",
    "tf32",
    "tokenizer_*",
    "torchdistx_path",
    "unsloth_*",
    "use_wandb",
    "wandb_*",
    "xformers_attention",
)
LORA = {
    "lora_r": "method.r",
    "lora_alpha": "method.lora_alpha",
    "lora_dropout": "method.lora_dropout",
    "lora_modules_to_save": "method.modules_to_save",
    "peft_use_rslora": "method.use_rslora",
    "peft_use_dora": "method.use_dora",
    "peft_init_lora_weights": "method.init_lora_weights",
    "peft_layers_to_transform": "method.layers_to_transform",
}
OBJECTIVE = {
    "rl_beta": "beta",
    "dpo_beta": "beta",
    "orpo_alpha": "beta",
    "rpo_alpha": "sft_weight",
    "dpo_label_smoothing": "label_smoothing",
    "cpo_alpha": "sft_weight",
    "simpo_gamma": "simpo_gamma",
    "kto_desirable_weight": "desirable_weight",
    "kto_undesirable_weight": "undesirable_weight",
    "precompute_ref_log_probs": "precompute_ref_log_probs",
}
READ = (
    *_quantized.LOADING,
    "adapter",
    "bf16",
    "bnb_config_kwargs",
    "chat_template",
    "chat_template_jinja",
    "datasets",
    "excess_length_strategy",
    "lora_target_linear",
    "lora_target_modules",
    "peft_adapter",
    "reward_model",
    "rl",
    "roles_to_train",
    "sample_packing",
    "test_datasets",
    "torch_dtype",
    "train_on_inputs",
    "val_set_size",
)
KEYS = frozenset({*PLACES, *ONLY, *IDLE, *LORA, *OBJECTIVE, *READ, *_axolotl_loop.KEYS, *_optim.LORAPLUS})
MARKS = frozenset(
    {"base_model", "micro_batch_size", "sequence_len", "num_epochs", "lora_target_linear", "val_set_size"}
)
PREFERENCES = ("dpo", "ipo", "orpo", "kto", "simpo")


def recognises(tree: Mapping[str, Any]) -> bool:
    """Whether a tree has a key of Axolotl's."""
    return not MARKS.isdisjoint(tree)


def translate(tree: Mapping[str, Any], asked: Asked = Asked()) -> Translation:  # noqa: B008 - frozen
    """Translate a recipe of Axolotl."""
    draft = Draft(dialect=NAME, given=tree, asked=asked)
    name = _objective_of(draft)
    _rows(draft, judged=name != "sft")
    _shown(draft, name)
    _method(draft)
    _bits(draft)
    _training.numbers(draft, "torch_dtype")
    _axolotl_loop.read(draft)
    draft.table(PLACES, ONLY, IDLE)
    draft.default("optim.lr_scheduler_type", "cosine")
    draft.default("data.max_length", 512)
    draft.default("train.per_device_train_batch_size", 1)
    return draft.done(KEYS)


def _objective_of(draft: Draft) -> str:
    rl, reward = draft.take("rl"), draft.take("reward_model", False)
    name, because = ("reward", "reward_model") if reward else ("sft", "no rl")
    if rl in PREFERENCES:
        name, because = str(rl), f"rl {rl}"
    elif rl is not None:
        draft.refuse("rl", f"received {said(rl)}", f"known: {', '.join(PREFERENCES)}", "write one of these")
    if asked := _objective.overridden(draft):
        name, because = asked, "the command line says so"
    _objective.settle(draft, name, OBJECTIVE, because)
    draft.moved["objective.name"] = tuple(key for key in ("rl", "reward_model") if key in draft.given)
    if name == "simpo":
        draft.default("objective.beta", 0.1)
        draft.default("objective.sft_weight", 1.0)  # TRL's cpo_alpha
    return name


def _rows(draft: Draft, *, judged: bool) -> None:
    for key, place in {"datasets": "data.train", "test_datasets": "data.eval"}.items():
        if place in draft.asked.places:
            draft.ignore(key)
        elif found := _axolotl_rows.sources(draft, key, judged=judged):
            draft.put(place, found, key)
    size = draft.take("val_set_size", 0)
    if size and "data.eval" not in draft.asked.places:
        fix = "write val_set_size=0, and test_datasets: [{path, type}] for rows of their own"
        draft.refuse("val_set_size", f"received {said(size)}", "rows are not split at random here", fix)
    else:
        draft.ignore("val_set_size")


def _shown(draft: Draft, name: str) -> None:
    """Read the template, what is scored, packing, and what becomes of long rows."""
    jinja = draft.take("chat_template_jinja")
    if jinja is not None:
        draft.put("data.chat_template", jinja, "chat_template_jinja")
        draft.ignore("chat_template")
    else:
        chat_template(draft, "chat_template")
    everything, packing = draft.take("train_on_inputs", False), draft.take("sample_packing", False)
    draft.taken.add("roles_to_train")
    if draft.given.get("roles_to_train") not in (None, ["assistant"]):
        fix = "write train_on_inputs: true to train on every token"
        draft.refuse("roles_to_train", f"received {said(draft.given['roles_to_train'])}", "[assistant]", fix)
    else:
        draft.ignore("roles_to_train")
    if name == "sft":
        if everything:
            draft.put("data.loss_on", "all", "train_on_inputs")
        draft.put("data.packing", packing, "sample_packing")
    draft.ignore(*([] if everything and name == "sft" else ["train_on_inputs"]))
    draft.ignore(*(["sample_packing"] if name != "sft" else []))
    names = {"drop": "refuse", "truncate": "right"}
    draft.choose("excess_length_strategy", "data.truncation", names)
    if "data.truncation" not in draft.moved and name == "sft":
        draft.default("data.truncation", "refuse")
        draft.note(
            "rows longer than sequence_len are left out, as in Axolotl, and counted; data.truncation=right cuts them"
        )


def _bits(draft: Draft) -> None:
    """Read what the base is quantised to; `adapter: qlora` is LoRA on 4 bits, and Axolotl quantises the scales too."""
    more = draft.take("bnb_config_kwargs", {})
    more = dict(more) if isinstance(more, dict) else {"": more}
    kind, double = more.pop("bnb_4bit_quant_type", "nf4"), more.pop("bnb_4bit_use_double_quant", True)
    left = {key for key in more if key not in ("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage")}
    if left:
        fix = "remove the others"
        draft.refuse("bnb_config_kwargs", f"received {said(more)}", "bnb_4bit_quant_type, ..._use_double_quant", fix)
    asked = _quantized.Asked(kind, "bnb_config_kwargs", double, "bnb_config_kwargs")
    if draft.given.get("adapter") == "qlora" and not draft.given.get("load_in_4bit"):
        draft.ignore("load_in_4bit")
        _quantized.put_four(draft, asked, "adapter")
    _quantized.loading(draft, asked)
    if "model.quantization" not in draft.moved:
        draft.ignore("bnb_config_kwargs")


def _method(draft: Draft) -> None:
    adapter = draft.take("adapter")
    targets, linear = draft.take("lora_target_modules"), draft.take("lora_target_linear", False)
    if adapter not in (None, "", "lora", "qlora", "llama-adapter"):
        allowed = "lora, qlora, llama-adapter, or none for full fine-tuning"
        draft.refuse("adapter", f"received {said(adapter)}", allowed, "write adapter: lora")
    _prompts(draft, adapter == "llama-adapter")
    if not adapter and not _projected.from_optimiser(draft, "optimizer", "adapter"):
        draft.put("method.name", "full", "adapter")
    if adapter in (None, "", "llama-adapter"):
        draft.ignore(*LORA, *_optim.LORAPLUS, "lora_target_modules", "lora_target_linear")
        return
    draft.put("method.name", "lora", "adapter")
    draft.table(LORA, {}, ())
    _optim.loraplus(draft)
    draft.default("method.r", 8)
    draft.ignore(*(["lora_target_linear"] if not linear else []))
    if targets and linear:
        draft.refuse("lora_target_modules", "beside lora_target_linear", "one of the two", "remove one")
    elif linear:
        draft.put("method.target_modules", "all-linear", "lora_target_linear")
    elif targets:
        draft.put("method.target_modules", targets, "lora_target_modules")
    else:
        draft.default("method.target_modules", ["q_proj", "v_proj"])


def _prompts(draft: Draft, use: bool) -> None:
    """LLaMA-Adapter's prompts: `peft_adapter: {len: 10, layers: 30}`."""
    if not use:
        return draft.ignore("peft_adapter")
    size: Any = draft.take("peft_adapter", {})
    draft.put("method.name", "llama_adapter", "adapter")
    if not isinstance(size, dict) or set(size) - {"len", "layers"}:
        return draft.refuse("peft_adapter", f"received {said(size)}", "len and layers", "write {len: 10, layers: 30}")
    for key, value in size.items():
        draft.put(f"method.adapter_{key}", value, "peft_adapter")
