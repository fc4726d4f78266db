# SPDX-License-Identifier: Apache-2.0
"""What a loaded model is for, and its head: the modules that turn hidden states into values, labels or spans.

A head always trains whole, whatever the method: it was drawn for this run, or has to learn what its labels are worth.
What belongs to it is PEFT's rule for each task, and besides whatever else the checkpoint did not have (BERT's pooler).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from transformers import PretrainedConfig, PreTrainedModel

    from luthier.core.tasks import Task

# What the names of transformers' classes hold (`ForQuestionAnsweringSimple`); one that ends in `Model` has no head.
KINDS: dict[str, Task] = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
}
# What the modules of a head are called, or end in, as PEFT looks for them.
NAMES: dict[str, tuple[str, ...]] = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
HEADS = ("score", "classifier", "qa_outputs")  # the last module of each
_GIVES: dict[Task, str] = {"SEQ_CLS": "values", "TOKEN_CLS": "labels", "QUESTION_ANS": "spans"}
_DRAWN = "luthier_drawn"  # where a model keeps which of its modules no checkpoint had: copies of it know them too


def task_by_name(kind: str, encodes_and_decodes: bool = False) -> Task | None:
    """What a class of transformers is for, by its name; None of one that only begins others (`ForMaskedLM`)."""
    if encodes_and_decodes and kind.endswith("MTModel"):  # Marian's
        return "SEQ_2_SEQ_LM"
    if kind.endswith("ForConditionalGeneration"):  # T5's; or a language model with towers for images
        return "SEQ_2_SEQ_LM" if encodes_and_decodes else "CAUSAL_LM"
    if encodes_and_decodes and kind.endswith("MTModel"):  # Marian
        return "SEQ_2_SEQ_LM"
    if kind.endswith("Model") and not kind.endswith("LMHeadModel"):
        return "FEATURE_EXTRACTION"
    return next((task for word, task in KINDS.items() if word in kind), None)


def task_of_model(model: nn.Module) -> Task:
    """What a loaded model gives; any module that is none of transformers' counts as a language model."""
    config: PretrainedConfig | None = getattr(model, "config", None)
    return task_by_name(type(model).__name__, bool(getattr(config, "is_encoder_decoder", False))) or "CAUSAL_LM"


def head_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that train whole with every method, by name; none of a model of words."""
    endings, drawn = NAMES.get(task_of_model(model), ()), drawn_modules(model)
    named = {name: module for name, module in model.named_children() if name.endswith(endings)} if endings else {}
    return named | {name: model.get_submodule(name) for name in drawn}


def unread(model: nn.Module) -> set[str]:
    """Modules that nothing reads, by name: the pooler of a model that gives hidden states."""
    pooler = getattr(model, "pooler", None)
    if not isinstance(pooler, nn.Module) or task_of_model(model) != "FEATURE_EXTRACTION":
        return set()
    return {"pooler", *(f"pooler.{name}" for name, _ in pooler.named_modules() if name)}


def head_keys(model: nn.Module) -> set[str]:
    """Names of the head's weights in a checkpoint."""
    return {f"{name}.{leaf}" for name, module in head_modules(model).items() for leaf, _ in module.named_parameters()}


def drawn_modules(model: nn.Module) -> tuple[str, ...]:
    """Modules whose weights no checkpoint had, by name: they hold random numbers until they are trained."""
    found: tuple[str, ...] = getattr(model, _DRAWN, ())
    return found


def may_be_drawn(model: PreTrainedModel, missing: Collection[str]) -> set[str]:
    """Which of the weights that a checkpoint lacks belong to a head: outside of what reads the text, or its pooler."""
    body: Any = model.base_model
    prefix = "" if body is model else f"{model.base_model_prefix}."
    return {key for key in missing if (prefix and not key.startswith(prefix)) or ".pooler" in f".{key}"}


@torch.no_grad()
def draw_head(model: PreTrainedModel, keys: Collection[str], name: str, seed: int, say: Callable[[str], None]) -> None:
    """Draw a head from a seed, and say so: the same numbers whatever was drawn before.

    They are normal with `initializer_range`, as transformers draws them, rounded to the model's type; biases are zero,
    the scales of norms one. A pooler that nothing reads (`FEATURE_EXTRACTION`) is taken out instead.

    Args:
        model: Changed in place.
        keys: The weights to draw.
        name: What the user calls the model.
        seed: The run's.
        say: Receives a line.
    """
    if not keys:
        return
    text = model.config.get_text_config()
    spread = getattr(text, "initializer_range", None) or 0.02
    modules, task = sorted({key.rpartition(".")[0] for key in keys}), task_of_model(model)
    if task == "FEATURE_EXTRACTION":
        model.pooler = None
        say(f"model {name}: the checkpoint has no pooler, and nothing reads one: the model goes without")
        return
    random = torch.Generator().manual_seed(seed)
    for key in sorted(keys):
        weight: Any = model.get_parameter(key)
        if weight.ndim > 1:
            weight.copy_(torch.randn(weight.shape, generator=random) * spread)
        else:
            weight.fill_(float(key.endswith("weight")))
    setattr(model, _DRAWN, tuple(modules))
    shapes = [str(tuple(model.get_parameter(f"{module}.weight").shape)) for module in modules]
    told = shapes[0] if len(shapes) == 1 else ", ".join(map(" ".join, zip(modules, shapes, strict=True)))
    say(f"model {name}: a head of {_GIVES[task]} {told} is drawn from seed {seed}, and has to be trained")
