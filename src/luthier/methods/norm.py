# SPDX-License-Identifier: Apache-2.0
"""Norm tuning: the scales (and shifts) of LayerNorm and RMSNorm train; PEFT's LN_TUNING.

    y = (x - mean) / deviation * w + b        w and b train
    y = x / rms * w                           w trains

References:
    Zhao et al., Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning, arXiv 2312.11420.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

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
from luthier.models.targets import endings_of, ends_with, in_decoder, kind_of, nearest
from luthier.models.ties import settle_ties

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from torch import nn

PEFT_TYPE = "LN_TUNING"
SHARES_BASE = True  # norms are copied for each of several runs on one base
_INSIDE = "ln_tuning_layers"  # what PEFT calls the trained norm inside its layer


class Config(BaseModel):
    """The keys of norm tuning, spelt as in PEFT."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    target_modules: Names | None = None
    """Name endings of norms, or a regular expression over whole names; left out, every norm trains."""
    exclude_modules: Names | None = None
    """Name endings or a regular expression of norms to leave out."""
    modules_to_save: Words = ()
    """Name endings of modules that train whole, saved with the norms: `[lm_head]`; a head of values always is one."""


def apply(model: nn.Module, config: Config) -> Trainable:
    """Freeze the model but for its norms.

    Args:
        model: Loaded by :func:`luthier.models.load_model`, or any module; changed in place.
        config: The recipe's section.

    Raises:
        RecipeError: The model has no norm with weights, or a name or pattern matches none. The model is then as it was.

    Reference:
        Zhao et al., arXiv 2312.11420.
    """
    whole = find_whole(model, config.modules_to_save)
    norms = _norms(model)
    chosen = set(norms) if config.target_modules is None else _matched(norms, config.target_modules, "target_modules")
    if config.exclude_modules is not None:
        chosen -= _matched(norms, config.exclude_modules, "exclude_modules")
    refuse_both(config.target_modules or (), whole)
    names = [name for name in norms if name in chosen and not inside(name, whole)]
    if not names:
        received = (
            f"{type(model).__name__} has no norm with weights to train" if not norms else "no norm is left to train"
        )
        raise RecipeError("method.target_modules", received, fix="leave fewer out, or choose another method")
    return _rewire(model, names, whole)


def load_peft(model: nn.Module, given: Mapping[str, Any], where: str) -> Trainable:
    """Rewire a model as a PEFT configuration says; PEFT lets any module with weights train so.

    Raises:
        ModelError: It has keys that are not known here, or does not fit the model.
    """
    _peft.refuse_keys(given, ("target_modules", "exclude_modules", "modules_to_save"), "norm tuning", where)
    targets, whole = _peft.read_names(given, model, where)
    _peft.refuse_nothing(given, targets, where)
    modules = dict(model.named_modules())
    empty = next((name for name in targets if next(modules[name].parameters(), None) is None), None)
    if empty is not None:
        raise ModelError(where, f"{empty} is to train and has no weights here", "the base it was trained on")
    targets = [name for name in targets if not inside(name.rpartition(".")[0], targets)]
    return _rewire(model, targets, {name: modules[name] for name in whole})


def _rewire(model: nn.Module, names: list[str], whole: dict[str, nn.Module]) -> Trainable:
    model.requires_grad_(False)
    swaps = copy_whole(model, whole) + copy_whole(model, {name: model.get_submodule(name) for name in names})
    trained = {
        f"{name}.{_INSIDE}.{leaf}": p for name in names for leaf, p in model.get_submodule(name).named_parameters()
    }
    parameters = trained | whole_parameters(model, whole)
    for parameter in parameters.values():
        parameter.requires_grad_(True)

    def save(folder: Path) -> None:
        every = [name for name, _ in model.named_modules() if name]
        told = {
            "peft_type": PEFT_TYPE,
            **_peft.describe(model),
            "target_modules": endings_of(names, every),
            "exclude_modules": None,
            "modules_to_save": _peft.whole_words(whole, every) or None,
        }
        _peft.write_folder(folder, told, whole_tensors(model, whole) | parameters)

    def merge() -> nn.Module:
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


def _norms(model: nn.Module) -> dict[str, nn.Module]:
    """Norms with weights that text runs through, in the model's order."""
    within = in_decoder(model)
    return {
        name: module
        for name, module in model.named_modules()
        if name in within
        and kind_of(name, module) == "norm"
        and next(module.parameters(recurse=False), None) is not None
    }


def _matched(norms: Collection[str], words: str | tuple[str, ...], key: str) -> set[str]:
    found: set[str] = set()
    leaves = sorted({name.split(".")[-1] for name in norms})
    allowed = f"the model's norms end in {', '.join(leaves)}"
    for word in (words,) if isinstance(words, str) else words:
        try:
            if isinstance(words, str):
                matched = {name for name in norms if re.fullmatch(word, name)}
            else:
                matched = {name for name in norms if ends_with(name, word)}
        except re.error as error:
            received = f"{word!r} is no regular expression ({error})"
            raise RecipeError(f"method.{key}", received, allowed, "mend it") from None
        if not matched:
            fix = f"a name ending goes into a list: [{word}]" if word in leaves else nearest(word, leaves)
            raise RecipeError(f"method.{key}", f"{word!r} matches no norm", allowed, fix or "correct or remove it")
        found |= matched
    return found
