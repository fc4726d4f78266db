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

from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError, RecipeError
from luthier.methods import _dora, _peft
from luthier.methods._loftq import begin_loftq, check_loftq
from luthier.methods._lora_ends import TiedLoraHead
from luthier.methods._lora_layers import rewire
from luthier.methods._lora_plan import Config, make_plan, plan_of
from luthier.methods._lowrank import LinearUpdate, LoraLayer, scaling_of
from luthier.methods._updates import config_of
from luthier.models.ties import tied_pair

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn

    from luthier.core.trainable import Trainable

__all__ = ["PEFT_TYPE", "SHARES_BASE", "Config", "apply", "check_agrees", "load_peft", "unfold"]

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
        return rewire(model, config, make_plan(model, config))
    check_loftq(model, config.use_dora)
    return begin_loftq(rewire(model, config, make_plan(model, config)))


def load_peft(model: nn.Module, given: Mapping[str, Any], where: str) -> Trainable:
    """Rewire a model as a PEFT configuration says; the weights are filled in afterwards.

    Raises:
        ModelError: It uses a variant that would compute something else here, or does not fit the model.
    """
    _peft.refuse_variants(given, where)
    found = _peft.read_targets(given, model, where)
    used = ("r", "lora_alpha", "use_rslora", "lora_dropout", "use_dora", "rank_pattern", "alpha_pattern", "bias")
    if given.get("use_dora") and found.tied:
        raise ModelError(
            where, "use_dora with ensure_weight_tying", "one of them", "load it with PEFT and merge it there"
        )
    names = {"target_modules": found.targets, "modules_to_save": found.whole, "ensure_weight_tying": found.tied}
    told = {"r": 8, "lora_alpha": 8} | {key: value for key, value in given.items() if value is not None}
    config = config_of(Config, told, used, where, **names)
    modules = dict(model.named_modules())
    targets, whole = ({name: modules[name] for name in group} for group in (found.targets, found.whole))
    return rewire(model, config, plan_of(config, targets, whole, tied_pair(model) if found.tied else None))


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

    An A that does not train (LoRA-FA) is taken over here, and is no longer among them.

    Args:
        model: With the recipe's layers; each takes A0 and B0 from the folder, whichever way they were factored there.
        tensors: By their names in the model, of ranks that agree (:func:`check_agrees`).
    """
    found = dict(tensors)
    for name, layer in model.named_modules():
        a, b = found.get(f"{name}.lora_A.weight"), found.get(f"{name}.lora_B.weight")
        if isinstance(layer, LinearUpdate) and "lora_A.weight" not in layer.tensors() and a is not None:
            layer.lora_A.copy_(found.pop(f"{name}.lora_A.weight"))
            continue
        if isinstance(layer, LinearUpdate) and layer.start_A is not None and a is not None and b is not None:
            kept_A, moved_A, moved_B, start_B = a[: layer.r], a[layer.r :], b[:, : layer.r], b[:, layer.r :]
            found |= {f"{name}.lora_A.weight": kept_A, f"{name}.lora_B.weight": start_B + moved_B}
            layer.start_A, layer.start_B = (kept_A - moved_A).to(layer.start_A), start_B.to(layer.start_A)
    return found
