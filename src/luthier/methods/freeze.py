# SPDX-License-Identifier: Apache-2.0
"""Partial fine-tuning: chosen layers, or parameters by pattern, train in place; the rest is frozen.

    freeze_trainable_layers: 2        the last two layers
    freeze_trainable_layers: -2       the first two (of an encoder-decoder: of each stack)
    unfrozen_parameters: [...]        parameters by regular expression

The keys are LLaMA-Factory's (`finetuning_type: freeze`); `unfrozen_parameters` is Axolotl's. Below the first layer that
trains there is no backward pass, so the last layers cost less than the first.

Reference:
    Howard and Ruder, Universal Language Model Fine-tuning for Text Classification, arXiv 1801.06146, section 3.3
    (layers unfrozen from the last one on).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from luthier.core.errors import RecipeError
from luthier.methods._in_place import train_in_place
from luthier.methods._keys import Words, as_tuple
from luthier.models.heads import head_modules
from luthier.models.layers import find_stacks
from luthier.models.targets import ends_with, nearest

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import nn
    from transformers import PreTrainedModel

    from luthier.core.trainable import Trainable

LAYERS = 2  # LLaMA-Factory's default


def _split(value: Any) -> Any:
    """`mlp,self_attn` as LLaMA-Factory writes it, or a list."""
    return tuple(word.strip() for word in value.split(",")) if isinstance(value, str) else as_tuple(value)


Listed = Annotated[tuple[str, ...], BeforeValidator(_split)]


class Config(BaseModel):
    """What trains; LLaMA-Factory's keys, or patterns."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    freeze_trainable_layers: int | None = None
    """How many layers train: the last ones, or, below 0, the first ones; 2 where nothing is said."""
    freeze_trainable_modules: Listed = ("all",)
    """What of these layers trains: names inside a layer (`mlp`, `self_attn.q_proj`), or `all`."""
    freeze_extra_modules: Listed = ()
    """Name endings of modules outside of the layers that train too: `embed_tokens`, `norm`, `lm_head`."""
    unfrozen_parameters: Words = ()
    """Instead: regular expressions that parameters' whole names begin with, as in Axolotl."""


def apply(model: PreTrainedModel, config: Config) -> Trainable:
    """Let the chosen parameters train in place; a head for a task always does.

    Args:
        model: Loaded by :func:`luthier.models.load_model`; changed in place.
        config: The recipe's section.

    Returns:
        Its result is a whole model; its `disabled()` raises LuthierError once a step was taken.

    Raises:
        RecipeError: A name or pattern matches nothing, there are fewer layers, or two keys say what trains. The model
            is then as it was.

    Reference:
        Howard and Ruder, arXiv 1801.06146, section 3.3.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    if config.unfrozen_parameters:
        _refuse_both(config)
        chosen = _by_pattern(named, config.unfrozen_parameters)
    else:
        chosen = _by_layer(model, named, config) | _outside(model, named, config.freeze_extra_modules)
    own = {id(parameter) for module in head_modules(model).values() for parameter in module.parameters()}
    chosen |= {name for name, parameter in named.items() if id(parameter) in own}
    once = {id(parameter): name for name, parameter in reversed(named.items()) if name in chosen}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return train_in_place(model, {names[key]: named[name] for key, name in reversed(once.items())}, "freeze")


def _refuse_both(config: Config) -> None:
    for key, default in (
        ("freeze_trainable_layers", None),
        ("freeze_trainable_modules", ("all",)),
        ("freeze_extra_modules", ()),
    ):
        if getattr(config, key) != default:
            received = "unfrozen_parameters says what trains already"
            raise RecipeError(f"method.{key}", received, "layers, or patterns", "leave one of them out")


def _by_pattern(named: Collection[str], patterns: tuple[str, ...]) -> set[str]:
    key, found = "method.unfrozen_parameters", set()
    for pattern in patterns:
        try:
            matched = {name for name in named if re.match(pattern, name)}
        except re.error as error:
            received = f"{pattern!r} is no regular expression ({error})"
            raise RecipeError(key, received, "patterns that names begin with", "mend it") from None
        if not matched:
            allowed = f"patterns that names begin with, such as {next(iter(named))}"
            raise RecipeError(key, f"{pattern!r} matches no parameter", allowed, "run `luthier inspect MODEL`")
        found |= matched
    return found


def _by_layer(model: nn.Module, named: Collection[str], config: Config) -> set[str]:
    """Parameters of the layers that train, or of the named modules in them; of encoder and decoder, of each."""
    stacks = find_stacks(model, "method.freeze_trainable_layers")
    return {name for stack in stacks for name in _in_stack(named, config, *stack)}


def _in_stack(named: Collection[str], config: Config, where: str, count: int) -> set[str]:
    asked = LAYERS if config.freeze_trainable_layers is None else config.freeze_trainable_layers
    if abs(asked) > count:
        if config.freeze_trainable_layers is not None:
            allowed = f"-{count} to {count}: the model has so many layers"
            raise RecipeError("method.freeze_trainable_layers", str(asked), allowed, "ask for fewer")
        asked = count
    if asked == 0 and not config.freeze_extra_modules:
        fix = "name layers, or modules in freeze_extra_modules"
        raise RecipeError("method.freeze_trainable_layers", "0, and nothing else trains", "other numbers", fix)
    inside = range(count - asked, count) if asked > 0 else range(-asked)
    heads = [f"{where}.{number}." for number in inside]
    within = {name for name in named if name.startswith(tuple(heads))}
    if not within or config.freeze_trainable_modules == ("all",):
        return within
    found: set[str] = set()
    for word in config.freeze_trainable_modules:
        matched = {name for name in within if name.startswith(tuple(f"{head}{word}." for head in heads))}
        if not matched:
            children = {name.removeprefix(f"{where}.").split(".")[1] for name in within}
            allowed = f"all, or modules of a layer: {', '.join(sorted(children))}"
            fix = nearest(word, children) or "correct or remove it"
            raise RecipeError(
                "method.freeze_trainable_modules", f"{word!r} names nothing in these layers", allowed, fix
            )
        found |= matched
    return found


def _outside(model: nn.Module, named: Collection[str], words: tuple[str, ...]) -> set[str]:
    """Parameters of the named modules that stand outside of the layers."""
    stacks = tuple(f"{where}." for where, _ in find_stacks(model, "method.freeze_trainable_layers"))
    outside = {name for name in named if not name.startswith(stacks)}
    owners = {name.rpartition(".")[0] for name in outside}
    found: set[str] = set()
    for word in words:
        matched = {name for name in outside if ends_with(name.rpartition(".")[0], word)}
        if not matched:
            leaves = {owner.split(".")[-1] for owner in owners}
            allowed = f"modules outside of the layers: {', '.join(sorted(leaves))}"
            fix = nearest(word, leaves) or "correct or remove it"
            raise RecipeError("method.freeze_extra_modules", f"{word!r} names none", allowed, fix)
        found |= matched
    return found
