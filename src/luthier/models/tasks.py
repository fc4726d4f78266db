# SPDX-License-Identifier: Apache-2.0
"""What a model is loaded for: to predict words (`CAUSAL_LM`), or to give a value to a text (`SEQ_CLS`, a reward model).

A reward model is a language model whose head of words makes room for a head of values. That head is the one weight that
may be missing in a checkpoint: it is drawn from the run's seed, as transformers draws it (normal, `initializer_range`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from luthier.core.errors import ModelError
from luthier.models.source_target import settle_source_and_target, writes_from_source
from luthier.models.values import value_head

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PretrainedConfig, PreTrainedModel

    from luthier.core.tasks import Task

_CLASSIFIER = "ForSequenceClassification"


def task_of(config: PretrainedConfig) -> Task:
    """What a checkpoint was saved for."""
    kinds = getattr(config, "architectures", None) or []
    if writes_from_source(config):
        return "SEQ_2_SEQ_LM"
    return "SEQ_CLS" if any(str(kind).endswith(_CLASSIFIER) for kind in kinds) else "CAUSAL_LM"


def auto_class(task: Task) -> Any:
    """The class of transformers that loads it."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

    if task == "SEQ_2_SEQ_LM":
        return AutoModelForSeq2SeqLM
    return AutoModelForSequenceClassification if task == "SEQ_CLS" else AutoModelForCausalLM


def settle_task(name: str, config: PretrainedConfig, task: Task | None, num_labels: int | None) -> Task:
    """Check that a checkpoint can be loaded for a task, and write into its configuration how many values it gives.

    Args:
        name: What the user calls the model.
        config: Changed in place.
        task: What it is to be loaded for; by default what it was saved for.
        num_labels: Values for each text; by default what the checkpoint has, and 1 for a new head.

    Returns:
        The task.

    Raises:
        ModelError: A reward model is to predict words, transformers has no sequence classifier of this architecture, or
            the checkpoint's head gives another number of values.
    """
    where, task = f"model {name}", task or task_of(config)
    if task == "SEQ_2_SEQ_LM" or config.is_encoder_decoder:
        settle_source_and_target(name, config, task)
        return task
    if task == "CAUSAL_LM":
        if task_of(config) == "SEQ_CLS":
            received = f"{config.architectures[0]}, a reward model: its head gives values instead of words"
            fix = "name the language model that it was made from; a reward model is for `objective: reward`"
            raise ModelError(where, received, "a model that predicts the next token", fix)
        return task
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as KNOWN

    code = getattr(config, "auto_map", None) or {}
    if type(config) not in KNOWN and f"AutoModel{_CLASSIFIER}" not in code:
        received = f"{config.model_type}, of which transformers has no sequence classifier"
        allowed = "an architecture with a class ...ForSequenceClassification (Llama, Qwen, Mistral, Gemma, GPT-2 ...)"
        raise ModelError(where, received, allowed, "choose such a model for rewards")
    if task_of(config) == "CAUSAL_LM":
        config.num_labels = num_labels or 1
    elif num_labels not in (None, config.num_labels):
        received = f"a head of {config.num_labels} values where {num_labels} are asked for"
        raise ModelError(where, received, "a checkpoint with as many", "name the language model that it was made from")
    return task


def head_keys(model: PreTrainedModel) -> set[str]:
    """Names of the head of values in a checkpoint; none of a model of words."""
    head = value_head(model)
    names = {module: name for name, module in model.named_modules()}
    return {f"{names[head]}.{leaf}" for leaf, _ in head.named_parameters()} if head is not None else set()


@torch.no_grad()
def draw_head(model: PreTrainedModel, name: str, seed: int, say: Callable[[str], None]) -> None:
    """Draw the head of values from a seed, and say so: the same numbers whatever was drawn before.

    They are normal with `initializer_range`, as transformers draws them, rounded to the model's type; a bias is zero.
    """
    head, text = value_head(model), model.config.get_text_config()
    assert head is not None
    spread = getattr(text, "initializer_range", None) or 0.02
    say(f"model {name}: a head of values {tuple(head.weight.shape)} is drawn from seed {seed}, and has to be trained")
    drawn = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(seed)) * spread
    head.weight.copy_(drawn)
    if head.bias is not None:
        head.bias.zero_()


def settle_padding(model: PreTrainedModel, name: str, say: Callable[[str], None]) -> None:
    """Give a reward model a padding token where it has none; transformers' class cannot score batches without.

    It becomes the token that begins texts, which never ends one; where that is also the end of text, the end of text.
    """
    config: Any = model.config
    text = config.get_text_config()
    if value_head(model) is None or text.pad_token_id is not None:
        return
    ends = text.eos_token_id if isinstance(text.eos_token_id, list) else [text.eos_token_id]
    begins = [text.bos_token_id] if text.bos_token_id not in ends else []
    within = [token for token in (*begins, *ends) if token is not None and 0 <= token < text.vocab_size]
    chosen = within[0] if within else text.vocab_size - 1
    for one in (text, config):
        one.pad_token_id = chosen
    late = ": values are read before an end of text, as transformers does" if chosen in ends else ""
    say(f"model {name}: it has no padding token; token {chosen} becomes one{late}")
