# SPDX-License-Identifier: Apache-2.0
"""PEFT's folder, both ways: adapter_config.json and adapter_model.safetensors, with PEFT's key names and its rules.

What is written holds resolved names, so that any reader finds the same layers; what is read is resolved by PEFT 0.21's
own rules, which differ from the recipe's in a few corners (`modules_to_save` matches parts of words there).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors.torch import save_file

from luthier.core.errors import ModelError, RecipeError
from luthier.models.heads import task_of_model
from luthier.models.targets import ends_with, is_adaptable, is_linear
from luthier.models.ties import head_of, tied_pair

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    import torch
    from torch import nn

T = TypeVar("T")
OUTER, PREFIX = "base_model.", "base_model.model."

_USED = """r lora_alpha lora_dropout use_rslora use_dora target_modules exclude_modules layers_to_transform
    layers_pattern rank_pattern alpha_pattern bias modules_to_save init_lora_weights ensure_weight_tying""".split()
# Keys that change nothing here: descriptions, and settings of starts that are refused or leave the base as it is.
_HARMLESS = """peft_type peft_version task_type auto_mapping base_model_name_or_path revision inference_mode
    fan_in_fan_out runtime_config megatron_core qalora_group_size loftq_config eva_config corda_config
    lora_ga_config""".split()
# Starts that draw A and B but leave the base weights alone; PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA change them.
_STARTS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")
_EMBEDDINGS = ("embed_tokens", "lm_head")  # the names by which PEFT knows a tied matrix


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a PEFT configuration means for one model.

    Attributes:
        targets: Layers that get an update, whole names.
        whole: Modules that train whole, whole names.
        tied: Whether head and embedding share their update (`ensure_weight_tying`).
    """

    targets: tuple[str, ...]
    whole: tuple[str, ...]
    tied: bool


def by_pattern(patterns: Mapping[str, T], name: str, default: T) -> T:
    """The value of the first pattern that a layer's name ends in, as PEFT looks it up.

    Example:
        >>> by_pattern({"down_proj": 64, "layers.[01].mlp.up_proj": 4}, "model.layers.0.mlp.up_proj", 8)
        4
    """
    return next((value for pattern, value in patterns.items() if _matches(pattern, name)), default)


def unmatched(patterns: Iterable[str], names: Collection[str], key: str) -> list[str]:
    """Patterns that no layer's name ends in.

    Raises:
        RecipeError: One is no regular expression.
    """
    try:
        return [pattern for pattern in patterns if not any(_matches(pattern, name) for name in names)]
    except re.error as error:
        received = f"{error.pattern!r} is no regular expression ({error})"
        raise RecipeError(key, received, "name endings or regular expressions", "mend it") from None


def patterns_for(values: Mapping[str, T], default: T, given: Mapping[str, T] | None = None) -> dict[str, T]:
    """The shortest pattern table that gives every layer its value, whatever order its keys are read in.

    Args:
        values: Layer -> value.
        default: For layers without a pattern.
        given: Patterns to prefer if they do it, such as the user's own.

    Example:
        >>> patterns_for({"h.0.up": 8, "h.1.up": 8, "h.0.down": 4, "h.1.down": 16}, 16)
        {'h.0.down': 4, 'up': 8}
    """
    ordered = dict(sorted((given or {}).items()))  # PEFT sorts the keys when it writes
    if all(by_pattern(ordered, name, default) == value for name, value in values.items()):
        return ordered
    leaves: dict[str, set[T]] = {}
    for name, value in values.items():
        leaves.setdefault(name.split(".")[-1], set()).add(value)
    table = {leaf: next(iter(found)) for leaf, found in leaves.items() if len(found) == 1 and default not in found}
    named = {n: v for n, v in values.items() if len(leaves[n.split(".")[-1]]) > 1 and v != default}
    return dict(sorted((table | named).items()))


def refuse_variants(given: Mapping[str, Any], where: str) -> None:
    """Refuse what would compute something else than LoRA, rsLoRA or DoRA.

    Raises:
        ModelError: The configuration uses a variant, an unknown key, or a start that changed the base weights.
    """
    refuse_keys(given, _USED, "LoRA, rsLoRA or DoRA", where)
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in given.get(key) or ():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ModelError(where, f"{key}: {pattern!r} is no regular expression ({error})") from None
    start = given.get("init_lora_weights", True)
    if start not in _STARTS:
        raise ModelError(
            where,
            f"init_lora_weights: {start!r}, which changes the base weights when training starts",
            "an adapter for the plain base",
            "save it from PEFT with path_initial_model_for_weight_conversion",
        )


def refuse_keys(given: Mapping[str, Any], used: Collection[str], kind: str, where: str) -> None:
    """Refuse keys that a method does not know: with them the adapter may compute something else.

    Args:
        given: adapter_config.json.
        used: The keys that the method reads.
        kind: What it computes, in words.
        where: The folder, for errors.

    Raises:
        ModelError: There is one that is set, or `target_modules` is left to PEFT.
    """
    for key, value in given.items():
        if key not in {*used, *_HARMLESS} and value:
            raise ModelError(
                where,
                f"{key}: {json.dumps(value, default=str)[:80]}",
                f"{kind}: with this key the adapter computes something else",
                "load it with PEFT, merge it there (merge_and_unload) and give the merged model",
            )
    if given.get("target_modules") is None:
        raise ModelError(
            where,
            "target_modules: null, PEFT's own choice for each architecture",
            "a list of names, a regular expression or all-linear",
            "write the layer names that adapter_model.safetensors holds into adapter_config.json",
        )


def read_targets(given: Mapping[str, Any], model: nn.Module, where: str) -> Found:
    """Resolve a PEFT configuration to whole names by PEFT's rules.

    Raises:
        ModelError: A pattern is broken, nothing matches, or something that matches is no linear or embedding layer.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    (targets, whole), tied = read_names(given, model, where), False
    words = given.get("modules_to_save") or ()
    if given.get("ensure_weight_tying") and (pair := tied_pair(model)):
        if any(word.split(".")[-1] in _EMBEDDINGS for word in words):
            tied, whole = True, list(dict.fromkeys([*whole, *pair]))
        elif _names_an_embedding(given["target_modules"]):
            tied, targets = True, list(dict.fromkeys([*targets, *pair]))
    for name in targets:
        if not is_adaptable(modules[name]):
            kind = type(modules[name]).__name__
            raise ModelError(where, f"an update on {name}, a {kind}", "updates on linear and embedding layers")
    refuse_nothing(given, targets, where)
    return Found(targets=tuple(targets), whole=tuple(whole), tied=tied)


def read_names(given: Mapping[str, Any], model: nn.Module, where: str) -> tuple[list[str], list[str]]:
    """Whole names of what `target_modules` and `modules_to_save` mean, by PEFT's rules.

    Raises:
        ModelError: A pattern is broken.
    """
    modules, head = {name: module for name, module in model.named_modules() if name}, head_of(model)
    words = given.get("modules_to_save") or ()
    whole = [name for name in modules if any(name.endswith(word) for word in words)]
    try:
        return [name for name in modules if _is_target(given, name, modules, head)], whole
    except re.error as error:
        raise ModelError(where, f"a pattern that is no regular expression ({error})", "PEFT's patterns") from None


def refuse_nothing(given: Mapping[str, Any], targets: Collection[str], where: str) -> None:
    """Refuse `target_modules` that matches no layer.

    Raises:
        ModelError: It does.
    """
    if not targets:
        received = f"target_modules {given['target_modules']!r} matches no layer"
        raise ModelError(where, received, "the base it was trained on", "give that base")


def whole_words(names: Collection[str], every: Collection[str]) -> list[str]:
    """Leaf names for `modules_to_save` where PEFT (it compares ends of strings) finds just these; else whole names."""
    leaves = {name.split(".")[-1] for name in names}
    exact = {name for name in every if name.endswith(tuple(leaves))} == set(names)
    return sorted(leaves if exact else names)


def write_folder(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write adapter_config.json and adapter_model.safetensors.

    Args:
        folder: Exists and is empty.
        config: The configuration.
        tensors: By their names in the model; what belongs to no layer by its whole name, `base_model.x`.
    """
    write_tensors(folder, tensors)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_tensors(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write adapter_model.safetensors; tensors come by their names in the model, or `base_model.x`."""
    named = {name if name.startswith(OUTER) else PREFIX + name: tensor for name, tensor in tensors.items()}
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}
    save_file(copies, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def describe(model: nn.Module) -> dict[str, Any]:
    """The part of adapter_config.json that every kind of adapter has."""
    base = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
    return {
        "task_type": task_of_model(model) if hasattr(model, "config") else None,
        "base_model_name_or_path": str(Path(base).resolve()) if base and Path(base).is_dir() else base or None,
        "inference_mode": True,
    }


def whole_number(value: float) -> float | int:
    """An integer where it is one: `lora_alpha: 16`, not 16.0."""
    return int(value) if float(value).is_integer() else value


def _matches(pattern: str, name: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def _names_an_embedding(target: str | Collection[str]) -> bool:
    if isinstance(target, str):
        return any(re.fullmatch(target, name) for name in _EMBEDDINGS)
    return any(word.split(".")[-1] in _EMBEDDINGS for word in target)


def _is_target(given: Mapping[str, Any], name: str, modules: Mapping[str, nn.Module], head: nn.Module | None) -> bool:
    exclude, target = given.get("exclude_modules"), given["target_modules"]
    if isinstance(exclude, str) and exclude:
        if re.fullmatch(exclude, name):
            return False
    elif exclude and any(ends_with(name, word) for word in exclude):
        return False
    if any(re.match(rf"(^|.*\.){word}($|\..*)", name) for word in given.get("modules_to_save") or ()):
        return False
    if isinstance(target, str):
        if target.lower() == "all-linear":
            return is_linear(modules[name]) and modules[name] is not head
        return re.fullmatch(target, name) is not None
    if name in target:
        return True
    return any(name.endswith(f".{word}") for word in target) and _in_layers(given, name)


def _in_layers(given: Mapping[str, Any], name: str) -> bool:
    layers, patterns = given.get("layers_to_transform"), given.get("layers_pattern")
    if layers is None or layers == []:
        return True
    if not patterns:
        found = re.match(r".*?\.[^.]*\.(?P<idx>\d+)\.", name)
    else:
        tried = [patterns] if isinstance(patterns, str) else patterns
        found = next((m for p in tried if (m := re.match(rf"(?:^|.*?\.){p}\.(?P<idx>\d+)\.", name))), None)
    return found is not None and int(found["idx"]) in ([layers] if isinstance(layers, int) else layers)
