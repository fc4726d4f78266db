# SPDX-License-Identifier: Apache-2.0
"""LoRA, rsLoRA and DoRA: a frozen base and trained low-rank updates, W + gamma B A.

    y = x W^T + gamma (x A^T) B^T        gamma = alpha / r, or alpha / sqrt(r) with `use_rslora`

With `use_dora` the rows of W + gamma B A have trained lengths (`_dora.py`).

Tied models (head and embedding are one matrix) behave as in PEFT: an update on `lm_head` or on `embed_tokens`, and
either of them in `modules_to_save`, belongs to that end alone, and merging makes two matrices of the one (only if they
differ). With `ensure_weight_tying` one update serves both ends, and the merged model stays tied.

References:
    Hu et al., LoRA, arXiv 2106.09685. Kalajdzievski, A Rank Stabilization Scaling Factor, arXiv 2312.03732. Liu et al.,
    DoRA, arXiv 2402.09353.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from torch import nn
from transformers.pytorch_utils import Conv1D

from luthier.core.errors import ModelError, RecipeError
from luthier.core.trainable import ParameterGroup, Trainable
from luthier.methods import _dora, _peft, _siblings
from luthier.methods._beside import copy_whole, swapped_back, trained_biases, whole_parameters, whole_tensors
from luthier.methods._loftq import begin_loftq, check_loftq
from luthier.methods._lora_plan import Config, Plan, make_plan, plan_of, written_numbers
from luthier.methods._lowrank import (
    LinearUpdate,
    LoraEmbedding,
    LoraLayer,
    TiedLoraHead,
    put,
    scaling_of,
    switched_off,
    wrap,
)
from luthier.models.targets import endings_of
from luthier.models.ties import settle_ties, tied_pair

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch

PEFT_TYPE = "LORA"
SHARES_BASE = True  # what it trains stands beside the base, which several runs may share (`cohort`)


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
    if config.init_lora_weights != "loftq":
        return _rewire(model, config, make_plan(model, config))
    check_loftq(model, config.use_dora)
    return begin_loftq(_rewire(model, config, make_plan(model, config)))


def load_peft(model: nn.Module, given: Mapping[str, Any], where: str) -> Trainable:
    """Rewire a model as a PEFT configuration says; the weights are filled in afterwards.

    Raises:
        ModelError: It uses a variant that would compute something else here, or does not fit the model.
    """
    _peft.refuse_variants(given, where)
    found = _peft.read_targets(given, model, where)
    used = ("r", "lora_alpha", "use_rslora", "lora_dropout", "use_dora", "rank_pattern", "alpha_pattern", "bias")
    keys = {"r": 8, "lora_alpha": 8} | {key: given[key] for key in used if given.get(key) is not None}
    names = {"target_modules": found.targets, "modules_to_save": found.whole, "ensure_weight_tying": found.tied}
    if given.get("use_dora") and found.tied:
        raise ModelError(
            where, "use_dora with ensure_weight_tying", "one of them", "load it with PEFT and merge it there"
        )
    try:
        config = Config.model_validate(keys | names)
    except ValidationError as failed:
        error = failed.errors(include_url=False)[0]
        received = f"{'.'.join(map(str, error['loc']))}: {error['input']!r}"
        raise ModelError(where, received, error["msg"].lower(), "mend adapter_config.json") from None
    modules = dict(model.named_modules())
    targets, whole = ({name: modules[name] for name in group} for group in (found.targets, found.whole))
    return _rewire(model, config, plan_of(config, targets, whole, tied_pair(model) if found.tied else None))


def check_agrees(model: nn.Module, given: Mapping[str, Any], where: str) -> None:
    """Compare a PEFT configuration with the low-rank layers that a recipe made; weights alone cannot tell gamma.

    Raises:
        RecipeError: It scales a layer differently, or has another rank there.
    """
    rslora, r0, alpha0 = bool(given.get("use_rslora")), given.get("r", 8), given.get("lora_alpha", 8)
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer) or isinstance(layer, TiedLoraHead):
            continue
        if isinstance(layer, _dora.DoraLinear | _dora.DoraEmbedding) != bool(given.get("use_dora")):
            told = f"use_dora: {str(bool(given.get('use_dora'))).lower()}"
            raise RecipeError("model.adapter_name_or_path", f"{where} has {told}, the recipe not", fix=f"write {told}")
        r = _peft.by_pattern(given.get("rank_pattern") or {}, name, r0)
        rank = layer.pair()[0].shape[0] if isinstance(layer, LinearUpdate) else layer.r
        scaling = scaling_of(r, _peft.by_pattern(given.get("alpha_pattern") or {}, name, alpha0), rslora)
        if r != rank or abs(scaling - layer.scaling) > 1e-6 * scaling:
            raise RecipeError(
                "model.adapter_name_or_path",
                f"{where} has r {r} and scaling {scaling:.6g} on {name}, the recipe {rank} and {layer.scaling:.6g}",
                "the same r, lora_alpha, use_rslora and patterns",
                f"write r: {r0}, lora_alpha: {alpha0}, use_rslora: {str(rslora).lower()}",
            )


def unfold(model: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A folder's tensors as a recipe's layers hold them: A, B, A0 and B0 come apart where the start was the base's.

    Args:
        model: With the recipe's layers; each takes A0 and B0 from the folder, whichever way they were factored there.
        tensors: By their names in the model, of ranks that agree (:func:`check_agrees`).
    """
    found = dict(tensors)
    for name, layer in model.named_modules():
        a, b = found.get(f"{name}.lora_A.weight"), found.get(f"{name}.lora_B.weight")
        if isinstance(layer, LinearUpdate) and layer.start_A is not None and a is not None and b is not None:
            kept_A, moved_A, moved_B, start_B = a[: layer.r], a[layer.r :], b[:, : layer.r], b[:, layer.r :]
            found |= {f"{name}.lora_A.weight": kept_A, f"{name}.lora_B.weight": start_B + moved_B}
            layer.start_A, layer.start_B = (kept_A - moved_A).to(layer.start_A), start_B.to(layer.start_A)
    return found


def _rewire(model: nn.Module, config: Config, plan: Plan) -> Trainable:
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


def _wrap_targets(model: nn.Module, config: Config, plan: Plan) -> dict[str, LoraLayer]:
    tied_head = plan.tied[1] if plan.tied else None
    layers: dict[str, LoraLayer] = {}
    for name, module in plan.targets.items():
        if name != tied_head:
            scaling = scaling_of(plan.ranks[name], plan.alphas[name], config.use_rslora)
            around = _dora.wrap if config.use_dora else wrap
            layers[name] = around(module, r=plan.ranks[name], scaling=scaling, dropout=config.lora_dropout)
            if isinstance(layer := layers[name], LinearUpdate):
                layer.begin(config.init_lora_weights)
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
        for key, matrix in layer.tensors().items()
        if isinstance(matrix, nn.Parameter)  # those of a tied head are views of the embedding's
    }


def _tensors(
    model: nn.Module, layers: dict[str, LoraLayer], plan: Plan, parameters: dict[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """What the file holds: all that trains, whole modules with their buffers, and a tied head by its own name too."""
    found = whole_tensors(model, plan.whole)
    for name, layer in layers.items():
        found |= {f"{name}.{key}": tensor for key, tensor in layer.saved().items()}
    return {name: parameter for name, parameter in parameters.items() if name not in found} | found


def _peft_config(model: nn.Module, config: Config, plan: Plan) -> dict[str, Any]:
    every = [name for name, _ in model.named_modules() if name]
    r, lora_alpha, ranks, alphas = written_numbers(config, plan)
    return {
        "peft_type": PEFT_TYPE,
        **_peft.describe(model),
        "r": r,
        "lora_alpha": _peft.whole_number(lora_alpha),
        "lora_dropout": config.lora_dropout,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "target_modules": endings_of(plan.targets, every),
        "rank_pattern": _peft.patterns_for(ranks, r, config.rank_pattern),
        "alpha_pattern": _peft.patterns_for(alphas, lora_alpha, config.alpha_pattern),
        "bias": config.bias,
        "modules_to_save": _peft.whole_words(plan.whole, every) or None,
        "ensure_weight_tying": plan.tied is not None,
        "fan_in_fan_out": any(isinstance(module, Conv1D) for module in plan.targets.values()),
        "init_lora_weights": True,
    }
