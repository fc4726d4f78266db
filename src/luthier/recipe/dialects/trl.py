# SPDX-License-Identifier: Apache-2.0
"""TRL and the alignment-handbook: flat YAML of ScriptArguments, ModelConfig and a trainer's config.

Defaults that change weights are those of TRL 1.16. Which trainer is meant stands in no key of such a file;
`_trl_objective.py` tells it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.recipe.dialects import _mixture, _projected, _quantized, _training, _trl_objective
from luthier.recipe.dialects._draft import OFF, Asked, Draft, Only
from luthier.recipe.tasks import tasks_of
from luthier.recipe.text import said

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.recipe.dialects._draft import Translation

NAME = "TRL"
PLACES = _training.PLACES | {
    "model_name_or_path": "model.model_name_or_path",
    "model_revision": "model.model_revision",
    "trust_remote_code": "model.trust_remote_code",
    "chat_template": "data.chat_template",
    "max_prompt_length": "data.max_prompt_length",
}
ONLY = _training.ONLY | {
    "lora_target_parameters": Only((*OFF, []), "name modules instead, in lora_target_modules"),
    "dataset_streaming": Only((False,), "remove it: tokens are kept on disk and mapped, not held in memory"),
    "max_completion_length": Only((), "write max_length for prompt and answer, max_prompt_length for the prompt"),
    "max_target_length": Only((), "write max_length for prompt and answer, max_prompt_length for the prompt"),
    "reference_free": Only((False,), "write trainer: cpo, which has no reference"),
    "sync_ref_model": Only((False,), "remove it: the reference stays what it is"),
    "use_weighting": Only((False,), "remove it: Luthier does not weigh pairs by their probability (WPO)"),
    "ld_alpha": Only((), "remove it: Luthier has no length-desensitised DPO"),
    "loss_weights": Only((), "remove it, and write one loss_type; sft_weight adds the likelihood of the chosen answer"),
    "router_aux_loss_coef": Only((0.0, 0), "remove it: the loss is the objective alone"),
    "eos_token": Only((), "remove it: the chat template says what ends a turn"),
    "alpha": Only((0.0, 0), "remove it: Luthier has no AlphaPO"),
    "is_encoder_decoder": Only((False,), "choose a decoder: Luthier trains causal models"),
    "ref_adapter_name": Only((), "write ref_model_name_or_path: the adapter's folder"),
    "force_use_ref_model": Only((False,), "remove it: `objective.reference` says what the reference is"),
}
IDLE = (
    *_training.IDLE,
    "activation_offloading",
    "attn_implementation",
    "bnb_4bit_*",
    "dataset_batch_size",
    "dataset_num_proc",
    "disable_dropout",
    "eval_packing",
    "generate_during_eval",
    "ignore_bias_buffers",
    "max_num_train_samples",
    "model_adapter_name",
    "model_code_revision",
    "num_proc",
    "pad_to_multiple_of",
    "pad_token",
    "padding_free",
    "padding_value",
    "precompute_ref_batch_size",
    "preprocessing_num_workers",
    "ref_model_mixup_alpha",
    "ref_model_sync_steps",
    "shuffle_dataset",
    "tokenizer_name_or_path",
    "use_flash_attention_2",
    "use_liger_loss",
)
LORA = {
    "lora_r": "method.r",
    "lora_alpha": "method.lora_alpha",
    "lora_dropout": "method.lora_dropout",
    "lora_target_modules": "method.target_modules",
    "lora_modules_to_save": "method.modules_to_save",
    "use_rslora": "method.use_rslora",
    "use_dora": "method.use_dora",
}
READ = (
    *_quantized.LOADING,
    "assistant_only_loss",
    "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant",
    "chat_template_path",
    "completion_only_loss",
    "dataset_kwargs",
    "dataset_text_field",
    "dtype",
    "lora_task_type",
    "max_length",
    "max_seq_length",
    "packing",
    "packing_strategy",
    "torch_dtype",
    "truncation_mode",
    "use_bnb_nested_quant",
    "use_peft",
)
KEYS = frozenset({*PLACES, *ONLY, *IDLE, *LORA, *_trl_objective.KEYS, *READ, *_training.KEYS, *_mixture.KEYS})
MARKS = KEYS - {"datasets", "seed", "output_dir", "chat_template", "optim"}  # what no section of ours is called
RATES = {"sft": 2e-5, "reward": 1e-4}  # learning rates that are a trainer's default; 1e-6 for all others


def recognises(tree: Mapping[str, Any]) -> bool:
    """Whether a tree has a key of TRL's."""
    return not MARKS.isdisjoint(tree)


def translate(tree: Mapping[str, Any], asked: Asked = Asked()) -> Translation:  # noqa: B008 - frozen
    """Translate a flat recipe of TRL or the alignment-handbook."""
    draft = Draft(dialect=NAME, given=tree, asked=asked)
    name = _trl_objective.read(draft)
    _mixture.rows(draft)
    _lengths(draft)
    _scored(draft, name)
    _method(draft, name)
    _bits(draft)
    _training.numbers(draft, "torch_dtype", "dtype")
    _training.training(draft)
    draft.table(PLACES, ONLY, IDLE)
    draft.default("optim.learning_rate", RATES.get(name, 1e-6))
    _training.epochs(draft, 3.0)
    return draft.done(KEYS)


def _lengths(draft: Draft) -> None:
    """Read `max_length`, once `max_seq_length`; both tools' default is 1024."""
    for key in ("max_length", "max_seq_length"):
        if key in draft.given and draft.given[key] is None and not (draft.has("max_length")):
            draft.refuse(key, "received nothing (null)", "a number of tokens", f"write {key}: 2048, or as it fits")
        elif (value := draft.take(key)) is not None:
            draft.put("data.max_length", value, key)


def _scored(draft: Draft, name: str) -> None:
    """Read what is scored, packing and how rows are prepared."""
    template = draft.take("chat_template_path")
    if template is not None and Path(str(template)).suffix in (".jinja", ".jinja2", ".j2"):
        draft.put("data.chat_template", str(template), "chat_template_path")
    elif template is not None:
        fix = "give the .jinja file in it, as in chat_template_path: DIR/chat_template.jinja"
        draft.refuse("chat_template_path", f"received {said(template)}", "a Jinja file", fix)
    kwargs = draft.take("dataset_kwargs", {})
    if isinstance(kwargs, dict) and not any(kwargs.values()):
        draft.ignore("dataset_kwargs")  # nothing is added to what the template writes
    else:
        draft.refuse("dataset_kwargs", f"received {said(kwargs)}", "add_special_tokens: false", "remove it")
    mode = draft.take("truncation_mode", "keep_start")
    if name == "sft" and mode == "keep_end":
        draft.refuse("truncation_mode", "received 'keep_end'", "keep_start, for rows of sft", "write keep_start")
    else:
        draft.ignore("truncation_mode")
    strategy = draft.take("packing_strategy", "bfd")
    if name != "sft":
        draft.ignore("packing", "packing_strategy", "assistant_only_loss", "completion_only_loss", "dataset_text_field")
        return
    if draft.given.get("packing") is True and not str(strategy).startswith("bfd"):
        fix = "write packing_strategy: bfd (best fit, as here), or packing: false"
        draft.refuse("packing_strategy", f"received {said(strategy)}", "rows are packed whole", fix)
    draft.ignore("packing_strategy")
    if draft.has("packing"):
        draft.put("data.packing", draft.take("packing"), "packing")
    draft.default("data.packing", False)
    _loss_on(draft)


def _loss_on(draft: Draft) -> None:
    keys = ("assistant_only_loss", "completion_only_loss")
    given = [key for key in keys if draft.take(key)]
    if given:
        draft.put("data.loss_on", "assistant", *given)
    else:
        draft.default("data.loss_on", "all")
        draft.note(
            "data.loss_on=all: TRL trains on every token of a conversation unless assistant_only_loss is true; "
            "for rows of prompt and completion write completion_only_loss: true"
        )
    draft.ignore(*(key for key in keys if key not in given))
    field = draft.take("dataset_text_field", "text")
    if field == "text" or "data" not in draft.tree:
        draft.ignore("dataset_text_field")
    else:
        for which in ("train", "eval"):
            sources = draft.tree["data"].get(which, [])
            if sources:
                read = [source | {"format": "text", "columns": {"text": field}} for source in sources]
                draft.tree["data"] = draft.tree["data"] | {which: read}
                draft.moved[f"data.{which}"] += ("dataset_text_field",)


def _bits(draft: Draft) -> None:
    """Read what the base is quantised to."""
    keys = ("use_bnb_nested_quant", "bnb_4bit_use_double_quant")  # the second is what bitsandbytes calls it
    double = any(draft.take(key, False) for key in keys)
    told = next((key for key in keys if draft.has(key)), keys[0])
    kind = draft.take("bnb_4bit_quant_type", "nf4")
    _quantized.loading(draft, _quantized.Asked(kind, "bnb_4bit_quant_type", double, told))


def _method(draft: Draft, name: str) -> None:
    """Read `use_peft` and LoRA's keys."""
    use = draft.take("use_peft", False)
    task, wanted = draft.take("lora_task_type"), tasks_of(name)[0]
    if use and task not in (None, wanted):
        draft.refuse("lora_task_type", f"received {said(task)}", f"objective {name} has {wanted}", "correct it")
    if use is not True:
        if not _projected.from_optimiser(draft, "optim", "use_peft"):
            draft.put("method.name", "full", "use_peft")
        lora = [key for key in (*LORA, "lora_task_type") if draft.has(key)]
        draft.ignore(*LORA, "lora_task_type")
        if lora:
            draft.note(f"use_peft is not true, so every parameter trains, as in TRL: {', '.join(lora)} without effect")
        return
    draft.ignore("lora_task_type")
    draft.put("method.name", "lora", "use_peft")
    if name != "sft" and draft.given.get("lora_dropout") and draft.given.get("disable_dropout") is not False:
        draft.note(
            "lora_dropout is honoured; TRL turns it off with disable_dropout (its default), as lora_dropout=0 does"
        )
    draft.table(LORA, {}, ())
    draft.default("method.lora_alpha", 32)
    if name == "sft":
        draft.default("method.lora_dropout", 0.05)
    draft.default("method.target_modules", ["q_proj", "v_proj"])
