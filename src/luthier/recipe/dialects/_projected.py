# SPDX-License-Identifier: Apache-2.0
"""GaLore and APOLLO: an optimiser of transformers' with targets and arguments, or LLaMA-Factory's `use_galore`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.recipe.text import said

if TYPE_CHECKING:
    from luthier.recipe.dialects._draft import Draft

_INNER = {
    "galore_adamw": ("galore", "adamw"),
    "galore_adamw_8bit": ("galore", "adamw_8bit"),
    "galore_adafactor": ("galore", "adafactor"),
    "apollo_adamw": ("apollo", "adamw"),
}
LAYERWISE = "_layerwise"
NAMED = _INNER | {f"{name}{LAYERWISE}": made for name, made in _INNER.items()}
ARGUMENTS = ("optim_args", "optim_target_modules")
_NUMBERS = {"rank": int, "update_proj_gap": int, "scale": float}
_WORDS = {"galore": ("proj_type",), "apollo": ("proj", "proj_type", "scale_type")}
_FOR = {"attn": "attention", "self_attn": "attention", "attention": "attention", "mlp": "mlp"}
# LLaMA-Factory: what follows `galore_` and `apollo_`, our key, and its default.
_FACTORY = {
    "galore": {"rank": ("rank", 16), "update_interval": ("update_proj_gap", 200), "scale": ("scale", 2.0)}
    | {"proj_type": ("proj_type", "std"), "layerwise": ("layerwise", False)},
    "apollo": {"rank": ("rank", 16), "update_interval": ("update_proj_gap", 200), "scale": ("scale", 32.0)}
    | {"proj": ("proj", "random"), "scale_type": ("scale_type", "channel"), "layerwise": ("layerwise", False)},
}
FACTORY = tuple(f"{name}_{word}" for name, words in _FACTORY.items() for word in (*words, "target"))
FACTORY += ("apollo_proj_type", "apollo_scale_front", "use_galore", "use_apollo")


def named(draft: Draft, key: str) -> str | None:
    """Which of the two the optimiser's name means, if any."""
    name = draft.given.get(key)
    return NAMED[name][0] if isinstance(name, str) and name in NAMED else None


def from_optimiser(draft: Draft, key: str, because: str) -> bool:
    """Read a method from the optimiser's name, its targets and arguments; False where it is another optimiser.

    Args:
        draft: Nothing of these keys was read before.
        key: `optim`, or `optimizer`.
        because: The key that says that the whole model trains.
    """
    method = named(draft, key)
    if method is None:
        return False
    name = str(draft.take(key))
    draft.put("method.name", method, because, key)
    draft.put("optim.optim", NAMED[name][1], key)
    _targets(draft, draft.take("optim_target_modules"), "optim_target_modules")
    _arguments(draft, method, draft.take("optim_args"))
    if name.endswith(LAYERWISE):
        _layerwise(draft, key)
    return True


def no_arguments(draft: Draft) -> None:
    """Refuse targets and arguments where the optimiser has none."""
    for key in ARGUMENTS:
        if draft.given.get(key) not in (None, False, "", [], {}):
            fix = "remove it; where the whole model trains, optimisers galore_adamw and apollo_adamw have it"
            draft.refuse(key, f"received {said(draft.given[key])}", "what GaLore and APOLLO project", fix)
        draft.ignore(key)


def no_switches(draft: Draft, kind: str) -> None:
    """Refuse `use_galore` and `use_apollo` where a part of the model trains, as LLaMA-Factory does for LoRA."""
    for name in _FACTORY:
        if draft.take(f"use_{name}", False) is not False:
            fix = f"write finetuning_type: full, or use_{name}: false"
            draft.refuse(f"use_{name}", f"with finetuning_type {kind}", "GaLore and APOLLO train the whole model", fix)
    draft.ignore(*FACTORY)


def from_switches(draft: Draft) -> bool:
    """Read LLaMA-Factory's `use_galore` and `use_apollo` with their keys; False where neither is on."""
    method = next((name for name in _FACTORY if draft.given.get(f"use_{name}") is True), None)
    for name in _FACTORY:
        value = draft.take(f"use_{name}", False)
        if value not in (True, False) or (value and name != method):
            draft.refuse(f"use_{name}", f"received {said(value)}", "true for one of the two, or false", "correct it")
    if method is None:
        draft.ignore(*FACTORY)
        return False
    draft.put("method.name", method, "finetuning_type", f"use_{method}")
    _targets(draft, draft.take(f"{method}_target", "all"), f"{method}_target")
    for word, (ours, default) in _FACTORY[method].items():
        key = f"{method}_{word}"
        if not draft.has(key):
            draft.default(f"method.{ours}", default)
        elif ours == "scale" and type(draft.given[key]) is int:
            draft.put("method.scale", float(draft.take(key)), key)
        else:
            draft.put(f"method.{ours}", draft.take(key), key)
    if draft.given.get(f"{method}_layerwise") is True:
        _layerwise(draft, f"{method}_layerwise")
    if method == "apollo":
        _std(draft, "apollo_proj_type", draft.take("apollo_proj_type"))
    draft.ignore(*(key for key in FACTORY if key not in draft.taken))  # `apollo_scale_front` changes no number here
    return True


def _targets(draft: Draft, value: Any, key: str) -> None:
    """Parts of names, as they find modules there, in our words or as endings."""
    if value is None or value is False or value in ("", [], 0):
        draft.refuse(key, "missing", "whose gradients are projected", f"write {key}: all-linear, or [attn, mlp]")
    elif value in ("all", "all-linear", ["all"], ["all-linear"]):
        draft.put("method.target_modules", "all-linear", key)
    elif isinstance(value, str) and key == "optim_target_modules":
        draft.put("method.target_modules", _FOR.get(value, value), key)
    else:
        names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
        if isinstance(names, list):  # what is none, the strict reading refuses
            names = [_FOR.get(name, name) if isinstance(name, str) else name for name in names]
        draft.put("method.target_modules", names, key)


def _arguments(draft: Draft, method: str, given: Any) -> None:
    """`rank=128, update_proj_gap=200`, or the same as a mapping."""
    if isinstance(given, str):
        pairs = [part.partition("=") for part in given.split(",") if part.strip()]
        given = {name.strip(): value.strip() for name, _, value in pairs}
    words = _WORDS[method]
    if not isinstance(given, dict | None):
        fix = "write optim_args: rank=128, update_proj_gap=200"
        draft.refuse("optim_args", f"received {said(given)}", "NAME=VALUE, ...", fix)
        return
    for name, value in (given or {}).items():
        if name in _NUMBERS:
            try:
                draft.put(f"method.{name}", _NUMBERS[name](value), "optim_args")
            except (TypeError, ValueError):
                draft.refuse("optim_args", f"{name}={said(value)}", "a number", "correct it")
        elif name == "proj_type" and method == "apollo":
            _std(draft, "optim_args", value)
        elif name in words:
            draft.put(f"method.{name}", value, "optim_args")
        else:
            known = f"known: {', '.join((*_NUMBERS, *words))}"
            draft.refuse("optim_args", f"unknown argument {name!r}", known, "correct or remove it")


def _std(draft: Draft, key: str, value: Any) -> None:
    if value not in (None, "std"):
        draft.refuse(key, f"proj_type is {said(value)}", "std", "write std: the smaller side is projected")


def _layerwise(draft: Draft, key: str) -> None:
    """Updates in the backward pass, where those tools do not clip either."""
    draft.put("method.layerwise", True, key)
    draft.put("optim.max_grad_norm", 0.0, key)
    draft.note(f"{key}: gradients are not clipped, as there")
