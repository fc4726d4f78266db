# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint was saved for, what it can be loaded for, and the labels that are written into its configuration.

A base is loaded for a task by giving it that task's head: values of a text (`SEQ_CLS`), labels of its tokens
(`TOKEN_CLS`), a span in it (`QUESTION_ANS`), or none at all (`FEATURE_EXTRACTION`). The head is the one part that may
be missing in a checkpoint (`models.heads`). What was trained for one of these tasks is not loaded for another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError
from luthier.models.heads import task_by_name
from luthier.models.source_target import settle_source_and_target, writes_from_source

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from luthier.core.tasks import Labels, Task

# transformers' class that loads a task's model, its table of architectures, and what that class's name is after.
_CLASSES: dict[Task, tuple[str, str]] = {
    "CAUSAL_LM": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING"),
    "SEQ_CLS": ("AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING"),
    "TOKEN_CLS": ("AutoModelForTokenClassification", "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING"),
    "QUESTION_ANS": ("AutoModelForQuestionAnswering", "MODEL_FOR_QUESTION_ANSWERING_MAPPING"),
    "FEATURE_EXTRACTION": ("AutoModel", "MODEL_MAPPING"),
    "SEQ_2_SEQ_LM": ("AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING"),
}
_HAS: dict[Task, str] = {
    "SEQ_CLS": "sequence classifier",
    "TOKEN_CLS": "token classifier",
    "QUESTION_ANS": "model for question answering",
    "FEATURE_EXTRACTION": "model without a head",
}
_HEADED = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
_CHOOSE = (
    "choose a decoder (Llama, Qwen ...), or say in model.task_type what an encoder is for (SEQ_CLS, TOKEN_CLS ...)"
)


def saved_for(config: PretrainedConfig) -> Task | None:
    """What a checkpoint's class is for; None of one that only begins others (`BertForMaskedLM`), or names none."""
    kinds = [str(kind) for kind in getattr(config, "architectures", None) or []]
    both = bool(getattr(config, "is_encoder_decoder", False))
    return next((task for kind in kinds if (task := task_by_name(kind, both))), None)


def is_encoder(config: PretrainedConfig) -> bool:
    """Whether a configuration is of a model that reads a text in both directions: it predicts masked words."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING or getattr(config, "is_encoder_decoder", False):
        return False
    return type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or not getattr(config, "is_decoder", True)


def task_of(config: PretrainedConfig) -> Task:
    """What a checkpoint is loaded for where nobody says it: what it was saved for."""
    usual: Task = "SEQ_2_SEQ_LM" if writes_from_source(config) else "CAUSAL_LM"
    return saved_for(config) or ("FEATURE_EXTRACTION" if is_encoder(config) else usual)


def auto_class(task: Task) -> Any:
    """The class of transformers that loads it."""
    import transformers

    return getattr(transformers, _CLASSES[task][0])


def renamed_keys(config: PretrainedConfig, task: Task) -> dict[str, str] | None:
    """How a language model's keys are called by the class for a task, where transformers names its body otherwise.

    `LlamaForQuestionAnswering` (and Qwen's, Mistral's) calls `transformer` what the others call `model`.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING as WORDS
    from transformers import MODEL_FOR_QUESTION_ANSWERING_MAPPING as SPANS

    if task != "QUESTION_ANS" or type(config) not in WORDS or type(config) not in SPANS:
        return None
    old, new = (table[type(config)].base_model_prefix for table in (WORDS, SPANS))
    return {rf"^{old}\.": f"{new}."} if old != new and saved_for(config) == "CAUSAL_LM" else None


def keep_names(model: PreTrainedModel, renamed: dict[str, str]) -> None:
    """Have a model written under its own names: transformers would write those of the checkpoint, without its head's.

    Args:
        model: Loaded with these names.
        renamed: Names of its checkpoint -> its own, as :func:`renamed_keys` gives them.
    """
    told: Any = model
    kept = getattr(model, "_weight_conversions", None) or []
    told._weight_conversions = [one for one in kept if not set(one.source_patterns) & set(renamed)]


def settle_task(
    name: str, config: PretrainedConfig, task: Task | None, num_labels: int | None, labels: Labels | None = None
) -> Task:
    """Check that a checkpoint can be loaded for a task, and write into its configuration what its head gives.

    Args:
        name: What the user calls the model.
        config: Changed in place.
        task: What it is to be loaded for; by default what it was saved for.
        num_labels: Values for each text or token; by default as many as `labels`, what the checkpoint has, or 1.
        labels: Their names, and what kind of problem they are.

    Returns:
        The task.

    Raises:
        ModelError: It was trained for another task, transformers has no class of this architecture for the task, or
            the checkpoint's head gives another number of values or others.
    """
    before, task = saved_for(config), task or task_of(config)
    if task == "SEQ_2_SEQ_LM" or getattr(config, "is_encoder_decoder", False):
        settle_source_and_target(name, config, task)
        return task
    _check_known(name, config, task)
    if before in _HEADED and before != task:
        raise _trained_for(name, config, before, task)
    if task not in _HEADED:
        return task
    count = num_labels if labels is None else len(labels)
    if task == "QUESTION_ANS":
        count = 2  # a start and an end
    if before != task:
        config.num_labels = count or 1
    elif count not in (None, config.num_labels):
        received = f"a head of {config.num_labels} values where {count} are asked for"
        raise ModelError(f"model {name}", received, "a checkpoint with as many", "name the model that it was made from")
    if labels is not None:
        _write_labels(name, config, labels, trained=before == task)
    return task


def _check_known(name: str, config: PretrainedConfig, task: Task) -> None:
    """Refuse an architecture of which transformers has no class for the task, and encoders that shall predict words."""
    import transformers

    auto, table = _CLASSES[task]
    where, code = f"model {name}", getattr(config, "auto_map", None) or {}
    known = type(config) in getattr(transformers, table) or auto in code
    kinds = getattr(config, "architectures", None) or [type(config).__name__]
    if task == "CAUSAL_LM" and auto not in code and (not known or is_encoder(config)):
        received = f"{kinds[0]} ({config.model_type}) is no causal language model"
        allowed = "a model that predicts the next token (transformers' AutoModelForCausalLM)"
        raise ModelError(where, received, allowed, _CHOOSE)
    if not known:
        received = f"{config.model_type}, of which transformers has no {_HAS[task]}"
        allowed = f"an architecture that {auto} knows (BERT, RoBERTa, ModernBERT, Llama, Qwen ...)"
        raise ModelError(where, received, allowed, "choose such a model")


def _trained_for(name: str, config: PretrainedConfig, before: Task, task: Task) -> ModelError:
    kind = (config.architectures or [before])[0]
    if before == "SEQ_CLS" and task == "CAUSAL_LM":
        received = f"{kind}, a reward model: its head gives values instead of words"
        fix = "name the language model that it was made from; a reward model is for `objective: reward`"
        return ModelError(f"model {name}", received, "a model that predicts the next token", fix)
    received = f"{kind}, which was trained for {before}, where {task} is asked for"
    fix = f"name the model that it was made from, or set model.task_type: {before}"
    return ModelError(f"model {name}", received, f"a base, or a checkpoint of {task}", fix)


def _write_labels(name: str, config: PretrainedConfig, labels: Labels, *, trained: bool) -> None:
    """Write names and kind of the labels; a trained head keeps the order that it was trained with.

    Raises:
        ModelError: The checkpoint's head has the same names in another order, or other names.
    """
    named, own = dict(enumerate(labels.names)), list((config.id2label or {}).values())
    generic = all(str(label).startswith("LABEL_") for label in own)
    if trained and not generic and own != list(labels.names):
        received = (
            f"a head for the labels {', '.join(map(str, own[:8]))} where {', '.join(labels.names[:8])} are asked for"
        )
        allowed = "the labels that it was trained with, in their order"
        fix = f"set data.labels: [{', '.join(map(str, own[:8]))}], or name the model that it was made from"
        raise ModelError(f"model {name}", received, allowed, fix)
    config.id2label, config.label2id = named, {label: number for number, label in named.items()}
    config.problem_type = labels.problem
