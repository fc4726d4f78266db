# SPDX-License-Identifier: Apache-2.0
"""(IA)^3: trained vectors multiply keys, values and what the MLP projects down; PEFT's IA3.

    keys, values            y = l * (x W^T + b)
    the MLP's last linear   y = (l * x) W^T + b        `feedforward_modules`

Every l starts at one. It is a diagonal matrix beside a linear, so it folds into the weights without a trace.

Reference:
    Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning,
    arXiv 2205.05638, section 3.3.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict
from transformers.pytorch_utils import Conv1D

from luthier.core.errors import ModelError, RecipeError
from luthier.core.trainable import ParameterGroup, Trainable
from luthier.methods import _peft
from luthier.methods._beside import (
    copy_whole,
    find_whole,
    inside,
    refuse_both,
    swapped_back,
    whole_parameters,
    whole_tensors,
)
from luthier.methods._keys import Names, Words
from luthier.methods._lowrank import put, switched_off
from luthier.methods._rescaled import RescaledLinear
from luthier.models.layers import MLP_ENDS, ends_mlp
from luthier.models.targets import (
    endings_of,
    ends_with,
    find_targets,
    is_linear,
    nearest,
    not_excluded,
    stacked_experts,
)
from luthier.models.ties import head_of, settle_ties

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import nn

PEFT_TYPE = "IA3"
SHARES_BASE = True  # the vectors stand beside the base
# What models call the linears that make keys and values, in one with the queries where there is only that.
_KEYS_VALUES: tuple[str, ...] = ("k_proj", "v_proj", "query_key_value", "c_attn", "qkv_proj", "Wqkv", "k", "v")
_KEYS_VALUES += ("key", "value", "k_lin", "v_lin")  # encoders'


class Config(BaseModel):
    """The keys of (IA)^3, spelt as in PEFT."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    target_modules: Names | None = None
    """Linears: name endings, a regular expression or a word as in LoRA; left out: keys, values, the MLP's last."""
    feedforward_modules: Names | None = None
    """Those of the targets whose inputs are multiplied, not their outputs; left out, the last linears of MLPs."""
    exclude_modules: Names | None = None
    """Name endings or a regular expression to leave out."""
    modules_to_save: Words = ()
    """Name endings of modules that train whole, saved with the vectors: `[lm_head]`; a head of values always is one."""


def apply(model: nn.Module, config: Config) -> Trainable:
    """Freeze the model and multiply its targets by vectors that train.

    Args:
        model: Loaded by :func:`luthier.models.load_model`, or any module; changed in place.
        config: The recipe's section.

    Raises:
        RecipeError: A name or pattern matches nothing, or something that is no linear; or the model has no linears of
            the usual names and none are given. The model is then as it was.

    Reference:
        Liu et al., arXiv 2205.05638, section 3.3.
    """
    whole = find_whole(model, config.modules_to_save)
    words = _usual(model, config.exclude_modules) if config.target_modules is None else config.target_modules
    refuse_both(words, whole)
    found = find_targets(model, words, exclude_modules=config.exclude_modules)
    targets = {name: module for name, module in found.items() if not inside(name, whole)}
    for name, module in targets.items():
        if not is_linear(module) or module is head_of(model):
            kind = "the head" if is_linear(module) else f"a {type(module).__name__}"
            raise RecipeError("method.target_modules", f"{name}, {kind}", "linears inside the model", "take it out")
    if not targets:
        received = f"{words!r}, all of which modules_to_save trains whole"
        raise RecipeError("method.target_modules", received, "layers besides", "name other layers")
    return _rewire(model, targets, _feedforward(config, targets), whole)


def load_peft(model: nn.Module, given: Mapping[str, Any], where: str) -> Trainable:
    """Rewire a model as a PEFT configuration says; the vectors are filled in afterwards.

    Raises:
        ModelError: It has keys that are not known here, or does not fit the model.
    """
    used = ("target_modules", "exclude_modules", "feedforward_modules", "modules_to_save", "init_ia3_weights")
    _peft.refuse_keys(given, used, "(IA)^3", where)
    names, whole = _peft.read_names(given, model, where)
    _peft.refuse_nothing(given, names, where)
    words, modules = given.get("feedforward_modules"), dict(model.named_modules())
    if words is None:
        received = "feedforward_modules: null, PEFT's own choice for each architecture"
        raise ModelError(
            where, received, "a list of names or a regular expression", "write it into adapter_config.json"
        )
    for name in names:
        if not is_linear(modules[name]) or modules[name] is head_of(model):
            kind = type(modules[name]).__name__
            raise ModelError(where, f"a vector on {name}, a {kind}", "vectors on linears inside the model")
    if isinstance(words, str):
        inputs = {name for name in names if re.fullmatch(words, name)}
    else:
        inputs = {name for name in names if name.endswith(tuple(words))}
    return _rewire(model, {name: modules[name] for name in names}, inputs, {name: modules[name] for name in whole})


def _rewire(
    model: nn.Module, targets: dict[str, nn.Module], inputs: set[str], whole: dict[str, nn.Module]
) -> Trainable:
    model.requires_grad_(False)
    swaps = copy_whole(model, whole)
    layers = {name: RescaledLinear(module, feedforward=name in inputs) for name, module in targets.items()}
    for name, layer in layers.items():
        put(model, name, layer)
    parameters = {f"{name}.ia3_l": layer.ia3_l for name, layer in layers.items()} | whole_parameters(model, whole)
    for parameter in parameters.values():
        parameter.requires_grad_(True)

    def save(folder: Path) -> None:
        every = [name for name, _ in model.named_modules() if name]
        told = _peft_config(model, targets, inputs, every) | {
            "modules_to_save": _peft.whole_words(whole, every) or None
        }
        _peft.write_folder(folder, told, whole_tensors(model, whole) | parameters)

    def merge() -> nn.Module:
        for name, layer in layers.items():
            put(model, name, layer.merge())
        settle_ties(model)
        return model

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


def _peft_config(model: nn.Module, targets: dict[str, nn.Module], inputs: set[str], every: list[str]) -> dict[str, Any]:
    """PEFT wants `feedforward_modules` among `target_modules`, and compares ends of strings, not whole components."""
    first, second = endings_of(inputs, every), endings_of(targets.keys() - inputs, every)
    if {name for name in targets if first and name.endswith(tuple(first))} != inputs:
        first, second = sorted(inputs), sorted(targets.keys() - inputs)
    return {
        "peft_type": PEFT_TYPE,
        **_peft.describe(model),
        "target_modules": sorted([*first, *second]),
        "exclude_modules": None,
        "feedforward_modules": first,
        "fan_in_fan_out": any(isinstance(module, Conv1D) for module in targets.values()),
        "init_ia3_weights": True,
    }


def _usual(model: nn.Module, exclude: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Endings of the linears for keys and values and of the last ones of MLPs, by their usual names.

    Raises:
        RecipeError: One of the two kinds is not there, or experts stand in one three-dimensional parameter.
    """
    linears = [name for name, module in model.named_modules() if is_linear(module)]
    usual = [tuple(w for w in _KEYS_VALUES if any(ends_with(n, w) for n in linears)), _mlp_ends(linears)]
    experts = stacked_experts(model)
    if not all(usual) or experts:
        received = f"nothing, and {experts[0]} holds all experts in one" if experts else "nothing, and no usual names"
        allowed = "linears for keys, values and the end of the MLP"
        fix = "name them as `luthier inspect MODEL` shows them, and feedforward_modules"
        raise RecipeError("method.target_modules", received, allowed, fix)
    kept = not_excluded(dict(model.named_modules()), exclude, "method.exclude_modules")
    return tuple(word for word in (*usual[0], *usual[1]) if any(ends_with(name, word) for name in kept))


def _mlp_ends(linears: list[str]) -> tuple[str, ...]:
    """Endings of the last linears of MLPs; their whole names where only these tell them from attention's (BERT)."""
    words = tuple(word for word in MLP_ENDS if any(ends_with(name, word) for name in linears))
    return words or tuple(name for name in linears if ends_mlp(name))


def _feedforward(config: Config, targets: dict[str, nn.Module]) -> set[str]:
    words, key = config.feedforward_modules, "method.feedforward_modules"
    if words is None:
        return {name for name in targets if ends_mlp(name)}
    found: set[str] = set()
    for word in (words,) if isinstance(words, str) else words:
        try:
            match = re.compile(word).fullmatch if isinstance(words, str) else (lambda name, w=word: ends_with(name, w))
        except re.error as error:
            received = f"{word!r} is no regular expression ({error})"
            raise RecipeError(key, received, "name endings or a regular expression", "mend it") from None
        matched = {name for name in targets if match(name)}
        if not matched:
            leaves = sorted({name.split(".")[-1] for name in targets})
            fix = nearest(word, leaves) or "correct or remove it"
            raise RecipeError(key, f"{word!r} matches none of the targets", f"among {', '.join(leaves)}", fix)
        found |= matched
    return found
