# SPDX-License-Identifier: Apache-2.0
"""LoRA and rsLoRA: a frozen base and trained low-rank updates, W + gamma B A.

    y = x W^T + gamma (x A^T) B^T        gamma = alpha / r, or alpha / sqrt(r) with `use_rslora`

Tied models (head and embedding are one matrix) behave as in PEFT: an update on `lm_head` or on `embed_tokens`, and
either of them in `modules_to_save`, belongs to that end alone, and merging makes two matrices of the one (only if they
differ). With `ensure_weight_tying` one update serves both ends, and the merged model stays tied.

References:
    Hu et al., LoRA, arXiv 2106.09685. Kalajdzievski, A Rank Stabilization Scaling Factor, arXiv 2312.03732.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from torch import nn
from transformers.pytorch_utils import Conv1D

from luthier.core.errors import ModelError, RecipeError
from luthier.core.trainable import ParameterGroup, Trainable
from luthier.methods import _peft, _siblings
from luthier.methods._beside import (
    complete_pair,
    copy_whole,
    find_whole,
    inside,
    refuse_both,
    swapped_back,
    trained_biases,
    whole_parameters,
    whole_tensors,
)
from luthier.methods._keys import Names, Words, as_tuple
from luthier.methods._lowrank import LoraEmbedding, LoraLayer, TiedLoraHead, put, scaling_of, switched_off, wrap
from luthier.models.targets import endings_of, find_targets, nearest
from luthier.models.ties import settle_ties, tied_pair

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch

PEFT_TYPE = "LORA"
SHARES_BASE = True  # what it trains stands beside the base, which several runs may share (`cohort`)


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
    """A list of name endings, a regular expression over whole names, or `all-linear`, `attention`, `mlp`."""
    exclude_modules: Names | None = None
    """Name endings or a regular expression to leave out."""
    layers_to_transform: Annotated[tuple[int, ...] | None, BeforeValidator(as_tuple)] = None
    """Only these decoder layers, counted from 0."""
    rank_pattern: dict[str, Annotated[int, Field(gt=0)]] = {}
    """Other ranks by name ending or regular expression: `{down_proj: 64}`."""
    alpha_pattern: dict[str, Annotated[float, Field(gt=0.0)]] = {}
    """Other lora_alpha by name ending or regular expression."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases train besides: none, all of the model's, or those of the adapted layers."""
    modules_to_save: Words = ()
    """Name endings of modules that train whole, saved with the adapter: `[lm_head]`; a head of values always is one."""
    ensure_weight_tying: bool = False
    """In a tied model: one update (or one whole copy) for head and embedding together."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is going to be rewired, known before the model is touched.

    `tied` names embedding and head where they share what trains; both are then in `targets` or in `whole`.
    """

    targets: dict[str, nn.Module]
    whole: dict[str, nn.Module]
    ranks: dict[str, int]
    alphas: dict[str, float]
    tied: tuple[str, str] | None = None


def apply(model: nn.Module, config: Config) -> Trainable:
    """Freeze the model and put low-rank layers around its targets.

    Args:
        model: Loaded by :func:`luthier.models.load_model`, or any module; changed in place.
        config: The recipe's section.

    Raises:
        RecipeError: A target or pattern matches nothing, r is larger than a layer, or two keys contradict each other.
            The model is then as it was.

    Reference:
        Hu et al., arXiv 2106.09685; Kalajdzievski, arXiv 2312.03732.
    """
    whole = find_whole(model, config.modules_to_save)
    targets = find_targets(
        model,
        config.target_modules,
        exclude_modules=config.exclude_modules,
        layers_to_transform=config.layers_to_transform,
    )
    refuse_both(config.target_modules, whole)
    targets = {name: module for name, module in targets.items() if not inside(name, whole)}
    tied = complete_pair(model, targets, whole) if config.ensure_weight_tying else None
    _check_patterns(config, targets)
    plan = _plan(config, targets, whole, tied)
    _check_ranks(config, plan)
    return _rewire(model, config, plan)


def load_peft(model: nn.Module, given: Mapping[str, Any], where: str) -> Trainable:
    """Rewire a model as a PEFT configuration says; the weights are filled in afterwards.

    Raises:
        ModelError: It uses a variant that would compute something else here, or does not fit the model.
    """
    _peft.refuse_variants(given, where)
    found = _peft.read_targets(given, model, where)
    used = ("r", "lora_alpha", "use_rslora", "lora_dropout", "rank_pattern", "alpha_pattern", "bias")
    keys = {"r": 8, "lora_alpha": 8} | {key: given[key] for key in used if given.get(key) is not None}
    names = {"target_modules": found.targets, "modules_to_save": found.whole, "ensure_weight_tying": found.tied}
    try:
        config = Config.model_validate(keys | names)
    except ValidationError as failed:
        error = failed.errors(include_url=False)[0]
        received = f"{'.'.join(map(str, error['loc']))}: {error['input']!r}"
        raise ModelError(where, received, error["msg"].lower(), "mend adapter_config.json") from None
    modules = dict(model.named_modules())
    targets, whole = ({name: modules[name] for name in group} for group in (found.targets, found.whole))
    return _rewire(model, config, _plan(config, targets, whole, tied_pair(model) if found.tied else None))


def check_agrees(model: nn.Module, given: Mapping[str, Any], where: str) -> None:
    """Compare a PEFT configuration with the low-rank layers that a recipe made; weights alone cannot tell gamma.

    Raises:
        RecipeError: It scales a layer differently, or has another rank there.
    """
    rslora, r0, alpha0 = bool(given.get("use_rslora")), given.get("r", 8), given.get("lora_alpha", 8)
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer) or isinstance(layer, TiedLoraHead):
            continue
        r = _peft.by_pattern(given.get("rank_pattern") or {}, name, r0)
        scaling = scaling_of(r, _peft.by_pattern(given.get("alpha_pattern") or {}, name, alpha0), rslora)
        if r != layer.r or abs(scaling - layer.scaling) > 1e-6 * scaling:
            raise RecipeError(
                "model.adapter_name_or_path",
                f"{where} has r {r} and scaling {scaling:.6g} on {name}, the recipe {layer.r} and {layer.scaling:.6g}",
                "the same r, lora_alpha, use_rslora and patterns",
                f"write r: {r0}, lora_alpha: {alpha0}, use_rslora: {str(rslora).lower()}",
            )


def _plan(
    config: Config, targets: dict[str, nn.Module], whole: dict[str, nn.Module], tied: tuple[str, str] | None
) -> _Plan:
    ranks = {name: _peft.by_pattern(config.rank_pattern, name, config.r) for name in targets}
    alphas = {name: _peft.by_pattern(config.alpha_pattern, name, config.lora_alpha) for name in targets}
    if tied and tied[1] in targets:
        embedding, head = tied
        if (ranks[embedding], alphas[embedding]) != (ranks[head], alphas[head]):
            received = f"different values for {embedding} and {head}, which share one update"
            raise RecipeError("method.rank_pattern", received, "the same r and lora_alpha for both")
    return _Plan(targets=targets, whole=whole, ranks=ranks, alphas=alphas, tied=tied)


def _rewire(model: nn.Module, config: Config, plan: _Plan) -> Trainable:
    model.requires_grad_(False)
    swaps = copy_whole(model, plan.whole, plan.tied)
    layers = _wrap_targets(model, config, plan)
    biases, old_biases = trained_biases(model, layers, plan.whole, config.bias)
    parameters = _low_rank_parameters(layers) | whole_parameters(model, plan.whole) | biases
    for parameter in parameters.values():
        parameter.requires_grad_(True)

    def save(folder: Path) -> None:
        _peft.write_folder(folder, _peft_config(model, config, plan), _tensors(model, layers, plan, parameters))

    def merge() -> nn.Module:
        for name, layer in layers.items():
            put(model, name, layer.merge())
        settle_ties(model)
        return model

    @contextmanager
    def disabled() -> Iterator[None]:
        with switched_off(layers.values()), swapped_back(swaps + old_biases):
            yield

    return Trainable(
        model=model,
        groups=(ParameterGroup(parameters=parameters),),
        folder="adapter",
        save=save,
        merge=merge,
        disabled=disabled,
    )


def _wrap_targets(model: nn.Module, config: Config, plan: _Plan) -> dict[str, LoraLayer]:
    tied_head = plan.tied[1] if plan.tied else None
    layers: dict[str, LoraLayer] = {}
    for name, module in plan.targets.items():
        if name != tied_head:
            scaling = scaling_of(plan.ranks[name], plan.alphas[name], config.use_rslora)
            layers[name] = wrap(module, r=plan.ranks[name], scaling=scaling, dropout=config.lora_dropout)
    if plan.tied and tied_head in plan.targets:
        source = layers[plan.tied[0]]
        assert isinstance(source, LoraEmbedding)
        layers[tied_head] = TiedLoraHead(plan.targets[tied_head], source, dropout=config.lora_dropout)
    for name, layer in layers.items():
        put(model, name, layer)
    _siblings.join(layers)
    return layers


def _low_rank_parameters(layers: dict[str, LoraLayer]) -> dict[str, nn.Parameter]:
    return {
        f"{name}.{key}": matrix
        for name, layer in layers.items()
        for key, matrix in zip(layer.names(), (layer.lora_A, layer.lora_B), strict=True)
        if isinstance(matrix, nn.Parameter)  # those of a tied head are views of the embedding's
    }


def _tensors(
    model: nn.Module, layers: dict[str, LoraLayer], plan: _Plan, parameters: dict[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """What the file holds: all that trains, whole modules with their buffers, and a tied head by its own name too."""
    found = whole_tensors(model, plan.whole)
    for name, layer in layers.items():
        found |= {f"{name}.{key}": t for key, t in zip(layer.names(), (layer.lora_A, layer.lora_B), strict=True)}
    return found | parameters


def _peft_config(model: nn.Module, config: Config, plan: _Plan) -> dict[str, Any]:
    every = [name for name, _ in model.named_modules() if name]
    return {
        "peft_type": PEFT_TYPE,
        **_peft.describe(model),
        "r": config.r,
        "lora_alpha": _peft.whole_number(config.lora_alpha),
        "lora_dropout": config.lora_dropout,
        "use_rslora": config.use_rslora,
        "target_modules": endings_of(plan.targets, every),
        "rank_pattern": _peft.patterns_for(plan.ranks, config.r, config.rank_pattern),
        "alpha_pattern": _peft.patterns_for(plan.alphas, config.lora_alpha, config.alpha_pattern),
        "bias": config.bias,
        "modules_to_save": _peft.whole_words(plan.whole, every) or None,
        "ensure_weight_tying": plan.tied is not None,
        "fan_in_fan_out": any(isinstance(module, Conv1D) for module in plan.targets.values()),
        "init_lora_weights": True,
    }


def _check_patterns(config: Config, targets: dict[str, nn.Module]) -> None:
    if not targets:
        received = f"{config.target_modules!r}, all of which modules_to_save trains whole"
        raise RecipeError("method.target_modules", received, "layers besides", "name other layers")
    leaves = sorted({name.split(".")[-1] for name in targets})
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in _peft.unmatched(getattr(config, key), targets, f"method.{key}"):
            received = f"{pattern!r} matches none of the targets"
            allowed = f"endings of the targets ({', '.join(leaves)}) or regular expressions"
            raise RecipeError(f"method.{key}", received, allowed, nearest(pattern, leaves) or "correct or remove it")


def _check_ranks(config: Config, plan: _Plan) -> None:
    for name, module in plan.targets.items():
        rows, columns = module.weight.shape  # type: ignore[misc]
        rank, most = plan.ranks[name], min(rows, columns)
        if rank > most:
            raise RecipeError(
                "method.r" if rank == config.r else "method.rank_pattern",
                f"rank {rank} for {name}, which is {rows} x {columns}",
                f"at most {most} there: a larger one only costs",
                f"lower r, or give this layer its own: rank_pattern: {{{name.split('.')[-1]}: {most}}}",
            )
