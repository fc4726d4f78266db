# SPDX-License-Identifier: Apache-2.0
"""BitFit: the bias terms train, and nothing else.

    y = x W^T + b        b trains, W is frozen

Many models of today have few biases (Qwen 2: query, key and value) or none (Llama, Mistral). Where there is none,
BitFit refuses; with `add_biases` every linear without a bias, but the head, gets one that starts at zero.

Reference:
    Ben Zaken et al., BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models,
    arXiv 2106.10199.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from transformers.pytorch_utils import Conv1D

from luthier.core.errors import RecipeError, UserError
from luthier.core.trainable import ParameterGroup, Trainable
from luthier.methods._beside import (
    copy_whole,
    find_whole,
    named_biases,
    swapped_back,
    whole_parameters,
    whole_tensors,
)
from luthier.methods._keys import Words
from luthier.methods._own import write_own
from luthier.models.targets import in_decoder, is_linear, kind_of
from luthier.models.ties import head_of, settle_ties

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHARES_BASE = True  # biases are copied for each of several runs on one base
# Keys by which transformers' configurations say that a model's linears have biases.
_SWITCHES = ("attention_bias", "mlp_bias", "use_bias", "bias", "qkv_bias", "attention_out_bias")


class Config(BaseModel):
    """What BitFit can be told."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    add_biases: bool = False
    """Give every linear that has no bias one that starts at zero (not the head)."""
    modules_to_save: Words = ()
    """Name endings of modules that train whole, saved with the biases: `[lm_head]`; a head of values always is one."""


def apply(model: nn.Module, config: Config) -> Trainable:
    """Freeze the model but for its bias terms.

    Args:
        model: Loaded by :func:`luthier.models.load_model`, or any module; changed in place.
        config: The recipe's section.

    Returns:
        Its `merge()` raises UserError where the architecture has no place for biases that were added.

    Raises:
        RecipeError: The model has no biases, or `add_biases` finds nothing to add. The model is then as it was.

    Reference:
        Ben Zaken et al., arXiv 2106.10199.
    """
    whole = find_whole(model, config.modules_to_save)
    bare = _without_bias(model) if config.add_biases else {}
    if config.add_biases and not bare:
        received = "true, but every linear of this model has a bias"
        raise RecipeError("method.add_biases", received, fix="leave it out")
    if not bare and not named_biases(model, whole):
        received = f"{type(model).__name__} has no biases to train"
        fix = "add zeros to its linears with method.add_biases: true, or choose `norm` or `lora`"
        raise RecipeError("method.name", received, "a model with biases (GPT-2, GPT-NeoX, Qwen 2)", fix)
    model.requires_grad_(False)
    for module in bare.values():
        weight: Any = module.weight
        outputs = weight.shape[1] if isinstance(module, Conv1D) else weight.shape[0]
        module.bias = nn.Parameter(torch.zeros(outputs, dtype=weight.dtype, device=weight.device))
    swaps = copy_whole(model, whole)
    biases = named_biases(model, whole)
    swaps += [bias.swap() for bias in biases.values()]
    parameters = {name: bias.parameter for name, bias in biases.items()} | whole_parameters(model, whole)
    for parameter in parameters.values():
        parameter.requires_grad_(True)

    def save(folder: Path) -> None:
        write_own(folder, model, "bitfit", config, whole_tensors(model, whole) | parameters)

    def merge() -> nn.Module:
        if bare:
            _say_biases(model, len(bare))
        settle_ties(model)
        return model

    @contextmanager
    def disabled() -> Iterator[None]:
        with swapped_back(swaps):
            yield

    return Trainable(
        model=model,
        groups=(ParameterGroup(parameters=parameters),),
        folder="adapter",
        save=save,
        merge=merge,
        disabled=disabled,
    )


def _without_bias(model: nn.Module) -> dict[str, nn.Module]:
    """Linears without a bias that text runs through, but the head."""
    head, within = head_of(model), in_decoder(model)
    return {
        name: module
        for name, module in model.named_modules()
        if name in within and is_linear(module) and module.bias is None and kind_of(name, module, head) != "head"
    }


def _say_biases(model: nn.Module, added: int) -> None:
    """Have the configuration say that its linears have biases, so that the merged model loads with them.

    Raises:
        UserError: No setting of its switches makes a model with just these parameters.
    """
    ours: Any = getattr(model, "config", None)
    if ours is None:
        return
    text = ours.get_text_config()
    switches = [key for key in _SWITCHES if getattr(text, key, None) is False]
    config = copy.deepcopy(ours)
    for key in switches:
        setattr(config.get_text_config(), key, True)
    with torch.device("meta"):
        made = type(model)(config)
    if {name for name, _ in made.named_parameters()} != {name for name, _ in model.named_parameters()}:
        raise UserError(
            "merge",
            f"{added} biases that were added, for which {type(model).__name__} has no place",
            "an architecture whose configuration has switches for them (Llama: attention_bias, mlp_bias)",
            "keep the adapter beside its base: `luthier generate` and `luthier evaluate` load it so",
        )
    for key in switches:
        setattr(text, key, True)
