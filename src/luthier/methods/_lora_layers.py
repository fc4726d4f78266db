# SPDX-License-Identifier: Apache-2.0
"""A plan of LoRA -> low-rank layers in the model, and PEFT's LORA folder of them: what LoRA and LoRA-FA share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.pytorch_utils import Conv1D

from luthier.methods import _dora, _peft, _siblings
from luthier.methods._lora_ends import LoraEmbedding, TiedLoraHead, wrap
from luthier.methods._lora_plan import written_numbers
from luthier.methods._lowrank import LinearUpdate, scaling_of
from luthier.methods._updates import train_updates
from luthier.models.targets import endings_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from luthier.core.trainable import Trainable
    from luthier.methods._lora_plan import Config, Plan
    from luthier.methods._lowrank import LoraLayer


def rewire(model: nn.Module, config: Config, plan: Plan, around: Callable[..., LoraLayer] | None = None) -> Trainable:
    """Freeze a model and put low-rank layers around its targets.

    Args:
        model: Changed in place.
        config: The recipe's section, or what a folder says.
        plan: Which layers, of which rank and scaling.
        around: Makes each layer; default LoRA's or DoRA's, as the configuration says.
    """
    around = around or (_dora.wrap if config.use_dora else wrap)
    return train_updates(
        model,
        lambda: _made(config, plan, around),
        lambda: _peft_config(model, config, plan),
        plan.whole,
        bias=config.bias,
        tied=plan.tied,
    )


def _made(config: Config, plan: Plan, around: Callable[..., LoraLayer]) -> dict[str, LoraLayer]:
    tied_head = plan.tied[1] if plan.tied else None
    layers: dict[str, LoraLayer] = {}
    for name, module in plan.targets.items():
        if name != tied_head:
            scaling = scaling_of(plan.ranks[name], plan.alphas[name], config.use_rslora)
            layers[name] = around(module, r=plan.ranks[name], scaling=scaling, dropout=config.lora_dropout)
            if isinstance(layer := layers[name], LinearUpdate):
                layer.begin(config.init_lora_weights)
    if plan.tied and tied_head in plan.targets:
        source = layers[plan.tied[0]]
        assert isinstance(source, LoraEmbedding)
        layers[tied_head] = TiedLoraHead(plan.targets[tied_head], source, dropout=config.lora_dropout)
    _siblings.join(layers)
    return layers


def _peft_config(model: nn.Module, config: Config, plan: Plan) -> dict[str, Any]:
    every = [name for name, _ in model.named_modules() if name]
    r, lora_alpha, ranks, alphas = written_numbers(config, plan)
    return {
        "peft_type": "LORA",
        "r": r,
        "lora_alpha": _peft.whole_number(lora_alpha),
        "lora_dropout": config.lora_dropout,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "target_modules": endings_of(plan.targets, every),
        "rank_pattern": _peft.patterns_for(ranks, r, config.rank_pattern),
        "alpha_pattern": _peft.patterns_for(alphas, lora_alpha, config.alpha_pattern),
        "bias": config.bias,
        "ensure_weight_tying": plan.tied is not None,
        "fan_in_fan_out": any(isinstance(module, Conv1D) for module in plan.targets.values()),
        "init_lora_weights": True,
    }
