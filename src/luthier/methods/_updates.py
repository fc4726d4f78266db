# SPDX-License-Identifier: Apache-2.0
"""What methods of updates share: a frozen model, layers with updates in the place of some, and a PEFT folder of both.

A method says which layers stand where, and what adapter_config.json tells of them; the rest is here.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from torch import nn

from luthier.core.errors import ModelError, RecipeError
from luthier.core.trainable import ParameterGroup, Trainable
from luthier.methods import _peft
from luthier.methods._beside import (
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
from luthier.methods._lowrank import put, switched_off
from luthier.models.targets import find_targets, is_linear
from luthier.models.ties import settle_ties

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import torch

    from luthier.methods._lowrank import LoraLayer

Modules = dict[str, nn.Module]
C = TypeVar("C", bound=BaseModel)


class LinearKeys(BaseModel):
    """The keys of every method whose updates stand on linears, spelt as in PEFT."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    target_modules: Names = "all-linear"
    """A list of name endings, a regular expression over whole names, or `all-linear`, `attention`, `mlp`."""
    exclude_modules: Names | None = None
    """Name endings or a regular expression to leave out."""
    layers_to_transform: Annotated[tuple[int, ...] | None, BeforeValidator(as_tuple)] = None
    """Only these decoder layers, counted from 0."""
    modules_to_save: Words = ()
    """Name endings of modules that train whole, saved with the adapter: `[lm_head]`; a head of values always is one."""


def find_linears(model: nn.Module, config: LinearKeys) -> tuple[Modules, Modules]:
    """The linears that get an update, and the modules that train whole; the model stays as it is.

    Raises:
        RecipeError: A word or pattern matches nothing, or something that is no linear; or a layer is named twice.
    """
    whole = find_whole(model, config.modules_to_save)
    found = find_targets(
        model,
        config.target_modules,
        exclude_modules=config.exclude_modules,
        layers_to_transform=config.layers_to_transform,
    )
    refuse_both(config.target_modules, whole)
    targets = {name: module for name, module in found.items() if not inside(name, whole)}
    refuse_tables(targets)
    if not targets:
        received = f"{config.target_modules!r}, all of which modules_to_save trains whole"
        raise RecipeError("method.target_modules", received, "layers besides", "name other layers")
    return targets, whole


def refuse_tables(targets: Modules) -> None:
    """Refuse embeddings among the targets.

    Raises:
        RecipeError: There is one.
    """
    table = next((name for name, module in targets.items() if not is_linear(module)), None)
    if table is not None:
        fix = "take it out, name it in modules_to_save to train it whole, or choose `lora`"
        raise RecipeError("method.target_modules", f"{table}, an embedding", "linear layers", fix)


def load_linears(model: nn.Module, given: Mapping[str, Any], where: str) -> tuple[Modules, Modules]:
    """The same of a PEFT configuration, by PEFT's rules.

    Raises:
        ModelError: A pattern is broken, nothing matches, or something that matches is no linear.
    """
    found, modules = _peft.read_targets(given, model, where), dict(model.named_modules())
    table = next((name for name in found.targets if not is_linear(modules[name])), None)
    if table is not None:
        raise ModelError(where, f"an update on {table}, a {type(modules[table]).__name__}", "updates on linear layers")
    targets, whole = ({name: modules[name] for name in group} for group in (found.targets, found.whole))
    return targets, whole


def config_of(kind: type[C], given: Mapping[str, Any], keys: tuple[str, ...], where: str, **more: Any) -> C:
    """A method's configuration from PEFT's; keys that PEFT leaves at null keep their default.

    Args:
        kind: The method's `Config`.
        given: adapter_config.json.
        keys: Those that mean the same in both.
        where: The folder, for errors.
        more: Values of other keys.

    Raises:
        ModelError: A value is not allowed.
    """
    try:
        return kind.model_validate({key: given[key] for key in keys if given.get(key) is not None} | more)
    except ValidationError as failed:
        error = failed.errors(include_url=False)[0]
        received = f"{'.'.join(map(str, error['loc']))}: {error['input']!r}"
        raise ModelError(where, received, error["msg"].lower(), "mend adapter_config.json") from None


def train_updates(
    model: nn.Module,
    made: Callable[[], Mapping[str, LoraLayer]],
    told: Callable[[], Mapping[str, Any]],
    whole: Modules,
    *,
    bias: str = "none",
    tied: tuple[str, str] | None = None,
    beside: Callable[[], Mapping[str, torch.Tensor]] = dict,
) -> Trainable:
    """Freeze a model, put layers with updates into it, and let those train.

    Args:
        model: Changed in place.
        made: Gives the layers by the names of what they stand around; asked when the rest of the model is frozen.
        told: The method's own part of adapter_config.json, with `peft_type`; asked when the adapter is saved.
        whole: Modules that train whole.
        bias: `none`, `all` of the model's biases train too, or `lora_only`: those of the adapted layers.
        tied: Names of an embedding and a head that are to go on sharing one matrix.
        beside: What the file holds that belongs to no layer, by its whole name there.
    """
    model.requires_grad_(False)
    swaps = copy_whole(model, whole, tied)
    layers = dict(made())
    for name, layer in layers.items():
        put(model, name, layer)
    biases, old_biases = trained_biases(model, layers, whole, bias)
    parameters = _own_parameters(layers) | whole_parameters(model, whole) | biases
    for parameter in parameters.values():
        parameter.requires_grad_(True)

    def save(folder: Path) -> None:
        every = [name for name, _ in model.named_modules() if name]
        words = {"modules_to_save": _peft.whole_words(whole, every) or None}
        config = {**told(), **_peft.describe(model), **words}
        _peft.write_folder(folder, config, {**_tensors(model, layers, whole, parameters), **beside()})

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


def _own_parameters(layers: Mapping[str, LoraLayer]) -> dict[str, nn.Parameter]:
    return {
        f"{name}.{key}": matrix
        for name, layer in layers.items()
        for key, matrix in layer.tensors().items()
        if isinstance(matrix, nn.Parameter)  # those of a tied head are views of the embedding's
    }


def _tensors(
    model: nn.Module, layers: Mapping[str, LoraLayer], whole: Modules, parameters: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """What the file holds: all that trains, whole modules with their buffers, and a tied head by its own name too."""
    found = whole_tensors(model, whole)
    for name, layer in layers.items():
        found |= {f"{name}.{key}": tensor for key, tensor in layer.saved().items()}
    return {name: parameter for name, parameter in parameters.items() if name not in found} | found
