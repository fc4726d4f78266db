# SPDX-License-Identifier: Apache-2.0
"""What may train beside an adapter's own parameters: biases, and modules that train whole (`modules_to_save`).

A module that trains whole is replaced by a copy, so the original stays as it was; of a bias, the old numbers are kept.
Both can be put back for a while: that is what a reference model needs.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from luthier.core.errors import RecipeError
from luthier.models.heads import HEADS, head_modules, unread
from luthier.models.quantized import dense_
from luthier.models.source_target import is_encoder_decoder, refuse_unread
from luthier.models.targets import WORDS, ends_with, nearest
from luthier.models.ties import tied_pair

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import torch


@dataclass(frozen=True, kw_only=True)
class Swap:
    """Something that trains whole, and what stood there before.

    Attributes:
        owner: The module that holds it.
        leaf: Its name there.
        base: The module or parameter as it was.
    """

    owner: nn.Module
    leaf: str
    base: nn.Module | nn.Parameter


@dataclass(frozen=True, kw_only=True)
class Bias:
    """One bias term: whose it is, and its name there."""

    owner: nn.Module
    leaf: str

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter as it stands in the model now."""
        return getattr(self.owner, self.leaf)

    def swap(self) -> Swap:
        """Its numbers as they are now, to be put back."""
        return Swap(owner=self.owner, leaf=self.leaf, base=_frozen(self.parameter))


@contextmanager
def swapped_back(swaps: Sequence[Swap]) -> Iterator[None]:
    """Inside, everything that was swapped is what it was."""
    trained = [getattr(swap.owner, swap.leaf) for swap in swaps]
    try:
        for swap, now in zip(swaps, trained, strict=True):
            setattr(swap.owner, swap.leaf, _like(swap.base, now))
        yield
    finally:
        for swap, now in zip(swaps, trained, strict=True):
            setattr(swap.owner, swap.leaf, now)


def _like(base: nn.Module | nn.Parameter, now: nn.Module | nn.Parameter) -> nn.Module | nn.Parameter:
    """The base on the device and in the mode of what trains now; the model may have moved since."""
    if isinstance(base, nn.Module) and isinstance(now, nn.Module):
        return base.to(next(now.parameters()).device).train(now.training)
    assert isinstance(base, nn.Parameter)
    assert isinstance(now, nn.Parameter)
    base.data = base.data.to(now.device)
    return base


def inside(name: str, modules: Collection[str]) -> bool:
    """Whether a module is one of these, or below one of them."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def find_whole(model: nn.Module, words: Sequence[str], where: str = "method") -> dict[str, nn.Module]:
    """The modules that `modules_to_save` names, and the task's head, as in PEFT; one inside another trains with it.

    Raises:
        RecipeError: A word names no module, or one without weights.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    key, found = f"{where}.modules_to_save", set()
    for word in words:
        matched = {name for name in modules if ends_with(name, word)}
        if not matched:
            parts = {part for name in modules for part in name.split(".") if not part.isdecimal()}
            fix = nearest(word, parts) or "correct or remove it"
            raise RecipeError(key, f"{word!r} names no module of this model", "endings of module names", fix)
        empty = next((name for name in sorted(matched) if next(modules[name].parameters(), None) is None), None)
        if empty is not None:
            received = f"{word!r} matches {empty}, which has no weights"
            raise RecipeError(key, received, "modules with weights", "remove it")
        found |= matched
    found |= set(head_modules(model))  # drawn anew or trained before, it has to learn what these labels are worth
    refuse_unread(model, found, key)
    outer = {name for name in found if not inside(name.rpartition(".")[0], found)}
    return {name: module for name, module in modules.items() if name in outer}


def refuse_both(target_modules: str | Collection[str], whole: Collection[str], where: str = "method") -> None:
    """Refuse a layer that is named twice: which of the two is meant cannot be told.

    Raises:
        RecipeError: A name in `target_modules` is also in `modules_to_save`, or is the task's head.
    """
    for word in () if isinstance(target_modules, str) else target_modules:
        hit = next((name for name in whole if ends_with(name, word)), None)
        if hit in HEADS:
            received = f"{word!r}, the head, which always trains whole"
            raise RecipeError(f"{where}.target_modules", received, "layers besides", f"take {word!r} out")
        if hit and word.lower() not in WORDS:
            raise RecipeError(
                f"{where}.modules_to_save",
                f"{hit}, which target_modules names too",
                "a low-rank update (target_modules) or the whole matrix (modules_to_save)",
                f"take {word!r} out of one of them",
            )


def complete_pair(
    model: nn.Module, targets: dict[str, nn.Module], whole: dict[str, nn.Module], where: str = "method"
) -> tuple[str, str]:
    """Put embedding and head of a tied model into whichever of the two tables names one of them.

    Returns:
        Their names.

    Raises:
        RecipeError: They are two matrices, or neither trains.
    """
    key = f"{where}.ensure_weight_tying"
    if is_encoder_decoder(model):
        received = "true, for an encoder-decoder: three modules or more have that matrix"
        raise RecipeError(key, received, "a decoder", "leave it out, and name what is to train")
    pair = tied_pair(model)
    if pair is None:
        received = "true, but this model's head and embedding are two matrices"
        raise RecipeError(key, received, "a tied model (tie_word_embeddings)", "leave it out")
    table = next((table for table in (whole, targets) if set(pair) & set(table)), None)
    if table is None:
        fix = f"add {pair[0].split('.')[-1]!r} to target_modules or modules_to_save, or leave it out"
        raise RecipeError(key, f"true, but neither {pair[0]} nor {pair[1]} trains", fix=fix)
    for name in pair:  # the embedding first: what both share goes by its name
        table.pop(name, None)
        table[name] = model.get_submodule(name)
    return pair


def copy_whole(model: nn.Module, whole: dict[str, nn.Module], tied: tuple[str, str] | None = None) -> list[Swap]:
    """Put copies in the place of modules that train whole; a tied partner keeps the old matrix.

    Args:
        model: Changed in place.
        whole: The modules by name.
        tied: Names of an embedding and a head that are to go on sharing one matrix.
    """
    swaps = []
    for name, module in whole.items():
        parent, _, leaf = name.rpartition(".")
        swaps.append(Swap(owner=model.get_submodule(parent), leaf=leaf, base=module))
        setattr(swaps[-1].owner, leaf, dense_(copy.deepcopy(module)))  # codes have no gradient
    if tied and tied[1] in whole:
        embedding, head = (model.get_submodule(name) for name in tied)
        head.weight = embedding.weight
    return swaps


def whole_parameters(model: nn.Module, whole: Collection[str]) -> dict[str, nn.Parameter]:
    """Parameters of modules that train whole, by name; one that two of them share stands there once."""
    named = [(f"{name}.{leaf}", p) for name in whole for leaf, p in model.get_submodule(name).named_parameters()]
    first = {id(p): name for name, p in reversed(named)}
    return {name: p for name, p in named if first[id(p)] == name}


def whole_tensors(model: nn.Module, whole: Collection[str]) -> dict[str, torch.Tensor]:
    """What a file holds of modules that train whole: parameters and buffers."""
    return {f"{n}.{key}": tensor for n in whole for key, tensor in model.get_submodule(n).state_dict().items()}


def named_biases(model: nn.Module, whole: Collection[str]) -> dict[str, Bias]:
    """Every bias term of a model outside of modules that train whole, by name, also those of stacked experts."""
    found, left_out = {}, unread(model)
    for name, module in model.named_modules():
        if inside(name, whole) or name in left_out:
            continue
        for leaf, _ in module.named_parameters(recurse=False):
            if leaf == "bias" or leaf.endswith("_bias"):
                found[f"{name}.{leaf}" if name else leaf] = Bias(owner=module, leaf=leaf)
    return found


def trained_biases(
    model: nn.Module, layers: Collection[str], whole: Collection[str], which: str
) -> tuple[dict[str, nn.Parameter], list[Swap]]:
    """The biases that train, by name, and their old numbers; biases of whole modules are counted there.

    Args:
        model: Already rewired: adapted layers hold their base as `base_layer`.
        layers: The adapted layers.
        whole: Modules that train whole.
        which: `none`, `all` of the model's, or `lora_only`: those of the adapted layers.
    """
    adapted = {f"{name}.base_layer" for name in layers}
    owners: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        meant = name in adapted if which == "lora_only" else which == "all"
        if meant and name not in layers and not inside(name, whole) and isinstance(_bias(module), nn.Parameter):
            owners[f"{name}.bias" if name else "bias"] = module
    biases = {name: bias for name, module in owners.items() if (bias := _bias(module)) is not None}
    swaps = [Swap(owner=owners[name], leaf="bias", base=_frozen(bias)) for name, bias in biases.items()]
    return biases, swaps


def _bias(module: nn.Module) -> nn.Parameter | None:
    bias = getattr(module, "bias", None)
    return bias if isinstance(bias, nn.Parameter) else None


def _frozen(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone(), requires_grad=False)
