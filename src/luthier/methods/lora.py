# SPDX-License-Identifier: Apache-2.0
"""LoRA and rsLoRA: a frozen base and trained low-rank updates, W + gamma B A.

    y = x W^T + gamma (x A^T) B^T        gamma = alpha / r, or alpha / sqrt(r) with `use_rslora`

References:
    Hu et al., LoRA, arXiv 2106.09685. Kalajdzievski, A Rank Stabilization Scaling Factor, arXiv 2312.03732.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from torch import nn

from luthier.core.errors import RecipeError
from luthier.core.trainable import ParameterGroup, Trainable
from luthier.methods._lowrank import LoraLayer, put, scaling_of, switched_off, wrap
from luthier.methods._peft import write_lora
from luthier.models.targets import find_targets

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[str | tuple[str, ...], BeforeValidator(_tuple)]


class Config(BaseModel):
    """LoRA's keys, spelt as in PEFT."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    r: Annotated[int, Field(gt=0)] = 16
    """Rank of the update."""
    lora_alpha: Annotated[float, Field(gt=0.0)] = 16.0
    """Scaling is lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora."""
    use_rslora: bool = False
    """Rank-stabilised scaling."""
    lora_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the low-rank branch's inputs that is dropped in training."""
    target_modules: Names = "all-linear"
    """Name endings, a regular expression, or `all-linear`, `attention`, `mlp`."""
    exclude_modules: Annotated[str | tuple[str, ...] | None, BeforeValidator(_tuple)] = None
    """Name endings or a regular expression to leave out."""
    layers_to_transform: Annotated[tuple[int, ...] | None, BeforeValidator(_tuple)] = None
    """Only these decoder layers."""
    rank_pattern: dict[str, Annotated[int, Field(gt=0)]] = {}
    """Other ranks by name ending or regular expression: `{down_proj: 64}`."""
    alpha_pattern: dict[str, Annotated[float, Field(gt=0.0)]] = {}
    """Other lora_alpha by name ending or regular expression."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases train besides."""
    modules_to_save: Annotated[tuple[str, ...], BeforeValidator(_tuple)] = ()
    """Modules that train whole and are saved with the adapter: `[lm_head]`."""


def apply(model: PreTrainedModel, config: Config) -> Trainable:
    """Freeze the model and put low-rank layers around its targets.

    Args:
        model: Loaded by :func:`luthier.models.load_model`; changed in place.
        config: The recipe's section.

    Raises:
        RecipeError: A target or pattern matches nothing, or r is larger than a layer.
    """
    targets = find_targets(
        model,
        config.target_modules,
        exclude_modules=config.exclude_modules,
        layers_to_transform=config.layers_to_transform,
    )
    saved = _modules_to_save(model, config.modules_to_save)
    targets = {name: module for name, module in targets.items() if name not in saved}
    model.requires_grad_(False)
    layers: dict[str, LoraLayer] = {}
    for name, module in targets.items():
        rank = _by_pattern(config.rank_pattern, name, config.r)
        _check_rank(rank, name, module)
        alpha = _by_pattern(config.alpha_pattern, name, config.lora_alpha)
        scaling = scaling_of(rank, alpha, config.use_rslora)
        layers[name] = wrap(module, r=rank, scaling=scaling, dropout=config.lora_dropout)
    _check_patterns(config, targets)
    for name, layer in layers.items():
        put(model, name, layer)
    parameters = _low_rank_parameters(layers) | _whole_parameters(saved) | _biases(model, layers, config.bias)
    for parameter in parameters.values():
        parameter.requires_grad_(True)

    def save(folder: Path) -> None:
        write_lora(folder, model, config, layers, parameters)

    return Trainable(
        model=model,
        groups=(ParameterGroup(parameters=parameters),),
        folder="adapter",
        save=save,
        merge=lambda: merge(model, layers),
        disabled=lambda: switched_off(layers),
    )


def merge(model: PreTrainedModel, layers: dict[str, LoraLayer]) -> PreTrainedModel:
    """Fold every update into its base weight and put the plain modules back."""
    head = model.get_output_embeddings()
    tied = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
    if tied and any(layer is head or layer is model.get_input_embeddings() for layer in layers.values()):
        _untie(model, layers)
    for name, layer in layers.items():
        put(model, name, layer.merge())
    return model


def _untie(model: PreTrainedModel, layers: dict[str, LoraLayer]) -> None:
    """One of two tied matrices gets an update of its own: from now on they are two."""
    for module in (model.get_output_embeddings(), model.get_input_embeddings()):
        base = module.base_layer if isinstance(module, LoraLayer) else module
        base.weight = nn.Parameter(base.weight.detach().clone(), requires_grad=False)  # type: ignore[union-attr, operator]
    model.config.get_text_config().tie_word_embeddings = False
    model.config.tie_word_embeddings = False


def _low_rank_parameters(layers: dict[str, LoraLayer]) -> dict[str, nn.Parameter]:
    found = {}
    for name, layer in layers.items():
        a, b = ("lora_embedding_A", "lora_embedding_B") if isinstance(layer.base_layer, nn.Embedding) else ("lora_A.weight", "lora_B.weight")
        found |= {f"{name}.{a}": layer.lora_A, f"{name}.{b}": layer.lora_B}
    return found


def _modules_to_save(model: PreTrainedModel, words: tuple[str, ...]) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    for word in words:
        matched = {n: m for n, m in model.named_modules() if n == word or n.endswith(f".{word}")}
        if not matched:
            raise RecipeError("method.modules_to_save", f"{word!r} matches no module", fix="run `luthier inspect MODEL`")
        found |= matched
    for name, module in found.items():
        # A copy of its own: a tied partner stays as it was.
        put(model, name, copy.deepcopy(module).to(torch.promote_types(next(module.parameters()).dtype, torch.float32)))
    return {name: model.get_submodule(name) for name in found}


def _whole_parameters(saved: dict[str, nn.Module]) -> dict[str, nn.Parameter]:
    return {f"{name}.{leaf}": p for name, module in saved.items() for leaf, p in module.named_parameters()}


def _biases(model: PreTrainedModel, layers: dict[str, LoraLayer], which: str) -> dict[str, nn.Parameter]:
    if which == "none":
        return {}
    if which == "lora_only":
        return {f"{n}.base_layer.bias": layer.bias for n, layer in layers.items() if isinstance(layer.bias, nn.Parameter)}
    return {name: p for name, p in model.named_parameters() if name.endswith("bias")}


def _by_pattern(patterns: dict[str, Any], name: str, default: Any) -> Any:
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            return value
    return default


def _check_patterns(config: Config, targets: dict[str, nn.Module]) -> None:
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, key):
            if not any(re.fullmatch(rf"(.*\.)?({pattern})", name) for name in targets):
                raise RecipeError(f"method.{key}", f"{pattern!r} matches none of the targets", fix="run `luthier inspect MODEL`")


def _check_rank(rank: int, name: str, module: nn.Module) -> None:
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    if rank > min(weight.shape):
        raise RecipeError(
            "method.r",
            f"rank {rank} for {name}, which is {weight.shape[0]} x {weight.shape[1]}",
            f"at most {min(weight.shape)} there: a larger one only costs",
            "lower r, or give this layer its own in rank_pattern",
        )


PEFT_TYPE = "LORA"
_UNSUPPORTED = ("use_dora", "alora_invocation_tokens", "trainable_token_indices", "target_parameters", "lora_bias", "layer_replication")


def from_peft(given: dict[str, Any], where: str) -> Config:
    """Read PEFT's adapter_config.json as this method's keys.

    Raises:
        RecipeError: It uses a variant that would compute something else here.
    """
    for key in _UNSUPPORTED:
        if given.get(key):
            raise RecipeError(f"adapter {where}", f"{key}: {given[key]!r}", "plain LoRA or rsLoRA", "load it with PEFT")
    known = {key: value for key, value in given.items() if key in Config.model_fields and value is not None}
    return Config.model_validate(known)
