# SPDX-License-Identifier: Apache-2.0
"""Bottleneck adapters: small MLPs behind (or beside) the frozen sublayers; Houlsby, Pfeiffer, parallel.

    houlsby     behind attention (of a decoder with a source: to the target) and behind the MLP, before the residual sum
    pfeiffer    behind the MLP alone
    parallel    beside the MLP, from the MLP's input

    y + scaling * up(phi(down(.)))        down: hidden -> hidden / reduction_factor

There is a non-linearity between the two matrices, so an adapter cannot be folded into weights: it stays beside
its base.

References:
    Houlsby et al., Parameter-Efficient Transfer Learning for NLP, arXiv 1902.00751, figure 2. Pfeiffer et al.,
    AdapterFusion, arXiv 2005.00247, section 3.2.1. He et al., Towards a Unified View of Parameter-Efficient Transfer
    Learning, arXiv 2110.04366, figure 3 and table 1 (parallel).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from luthier.core.errors import ModelError, RecipeError, UserError
from luthier.core.trainable import ParameterGroup, Trainable
from luthier.methods._beside import copy_whole, find_whole, inside, swapped_back, whole_parameters, whole_tensors
from luthier.methods._bottleneck import Bottleneck, NonLinearity, Shape
from luthier.methods._keys import Words, as_tuple
from luthier.methods._lowrank import put, switched_off
from luthier.methods._own import write_own
from luthier.models.layers import attention_end, find_stacks, mlp_end, mlp_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import nn

SHARES_BASE = True  # adapters stand beside the base


class Config(BaseModel):
    """The keys of bottleneck adapters, spelt as in AdapterHub where it has them."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    placement: Literal["houlsby", "pfeiffer", "parallel"] = "pfeiffer"
    """Where adapters stand: behind attention and MLP, behind the MLP, or beside the MLP."""
    reduction_factor: Annotated[float, Field(ge=1.0)] = 16.0
    """The model's hidden size divided by the adapters'; at least one number is left."""
    non_linearity: NonLinearity = "relu"
    """Between the two matrices: relu, gelu, silu, tanh, leaky_relu or elu."""
    scaling: Annotated[float, Field(gt=0.0)] = 1.0
    """Factor on what an adapter adds; He et al. take 4 in parallel."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of an adapter's inputs that is dropped in training."""
    layers_to_transform: Annotated[tuple[int, ...] | None, BeforeValidator(as_tuple)] = None
    """Only these decoder layers, counted from 0."""
    modules_to_save: Words = ()
    """Name endings of modules that train whole, saved along: `[lm_head]`; a head of values always is one."""


def apply(model: nn.Module, config: Config) -> Trainable:
    """Freeze the model and put adapters at its sublayers.

    Args:
        model: Loaded by :func:`luthier.models.load_model`, or any module with a `config.hidden_size`; changed in place.
        config: The recipe's section.

    Returns:
        Its `merge()` raises UserError: what is not linear has no place in the weights.

    Raises:
        RecipeError: The layers have no attention or MLP that is found, or a layer number is not there. The model is
            then as it was.

    Reference:
        Houlsby et al., arXiv 1902.00751; Pfeiffer et al., arXiv 2005.00247; He et al., arXiv 2110.04366.
    """
    whole = find_whole(model, config.modules_to_save)
    sites = _sites(model, config)
    taken = next((site for site in sites if inside(site, whole)), None)
    if taken is not None:
        received = f"{taken}, where an adapter stands"
        raise RecipeError("method.modules_to_save", received, "modules besides", "leave one of them out")
    hidden = _hidden_size(model)
    shape = Shape(
        size=max(1, int(hidden / config.reduction_factor)),
        non_linearity=config.non_linearity,
        scaling=config.scaling,
        dropout=config.dropout,
        parallel=config.placement == "parallel",
    )
    model.requires_grad_(False)
    swaps = copy_whole(model, whole)
    layers = {name: Bottleneck(model.get_submodule(name), hidden, shape) for name in sites}
    for name, layer in layers.items():
        put(model, name, layer)
    parameters = _adapter_parameters(layers) | whole_parameters(model, whole)
    for parameter in parameters.values():
        parameter.requires_grad_(True)

    def save(folder: Path) -> None:
        write_own(folder, model, "adapter", config, whole_tensors(model, whole) | parameters)

    def merge() -> nn.Module:
        raise UserError(
            "merge",
            f"bottleneck adapters, with {config.non_linearity} between two matrices",
            "methods that fold into weights: lora, ia3, norm, bitfit",
            "keep the adapter beside its base: `luthier generate` and `luthier evaluate` load it so",
        )

    @contextmanager
    def disabled() -> Iterator[None]:
        with switched_off(layers.values()), swapped_back(swaps):
            yield

    return Trainable(
        model=model,
        groups=(ParameterGroup(parameters=parameters),),
        folder="adapter",
        save=save,
        merge=merge,
        disabled=disabled,
    )


def check_agrees(model: nn.Module, given: Mapping[str, Any], where: str) -> None:
    """Compare a folder's settings with the adapters that a recipe made: the tensors fit other functions, too.

    Raises:
        RecipeError: It has another placement, non-linearity, scaling or size.
        ModelError: Its settings cannot be read.
    """
    told = given.get("config")
    if given.get("method") != "adapter" or not isinstance(told, dict):
        raise ModelError(where, "no settings of bottleneck adapters", "a folder that `adapter` wrote", "name another")
    for layer in (module for module in model.modules() if isinstance(module, Bottleneck)):
        theirs = told.get("placement") == "parallel", told.get("non_linearity"), told.get("scaling")
        if theirs != (layer.shape.parallel, layer.shape.non_linearity, layer.shape.scaling):
            keys = ", ".join(f"{key}: {told.get(key)}" for key in ("placement", "non_linearity", "scaling"))
            received = f"{where} has {keys}, the recipe something else"
            raise RecipeError("model.adapter_name_or_path", received, "the same settings", f"write {keys}")


def _adapter_parameters(layers: dict[str, Bottleneck]) -> dict[str, nn.Parameter]:
    return {
        f"{name}.{part}.{leaf}": parameter
        for name, layer in layers.items()
        for part in ("adapter_down", "adapter_up")
        for leaf, parameter in layer.get_submodule(part).named_parameters()
    }


def _hidden_size(model: nn.Module) -> int:
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = getattr(text, "hidden_size", None)
    if not isinstance(size, int):
        received = f"{type(model).__name__}, whose configuration has no hidden_size"
        raise RecipeError("method.name", received, "a transformers model", "choose `lora`")
    return size


def _sites(model: nn.Module, config: Config) -> list[str]:
    """Whole names of the modules that get an adapter, in the model's order."""
    return [site for stack in find_stacks(model, "method.placement") for site in _sites_in(model, config, *stack)]


def _sites_in(model: nn.Module, config: Config, where: str, count: int) -> list[str]:
    """The same of one list of layers."""
    chosen = range(count) if config.layers_to_transform is None else config.layers_to_transform
    if wrong := [number for number in chosen if not 0 <= number < count] or (not chosen):
        received = f"layer {wrong[0]}" if isinstance(wrong, list) else "no layer"
        fix = "correct it, or leave it out for all layers"
        raise RecipeError("method.layers_to_transform", received, f"layers 0 to {count - 1}", fix)
    sites = []
    for number in sorted(set(chosen)):
        layer = model.get_submodule(f"{where}.{number}")
        mlp = mlp_of(layer) or (mlp_end(layer) if config.placement != "parallel" else None)
        found = [attention_end(layer), mlp] if config.placement == "houlsby" else [mlp]
        if None in found:
            what = "MLP" if mlp is None else "end of attention"
            received = f"{config.placement}, and no {what} is found in {where}.{number}, a {type(layer).__name__}"
            allowed = "layers whose sublayers have usual names (attention: o_proj, c_proj, dense ...; mlp)"
            raise RecipeError("method.placement", received, allowed, "take another placement, or `lora`")
        sites += [f"{where}.{number}.{name}" for name in found]
    return sites
