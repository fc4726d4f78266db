# SPDX-License-Identifier: Apache-2.0
"""Which trained parameter has which learning rate and weight decay: the recipe's groups, LoRA+ and layer-wise decay.

A parameter's rate is `optim.learning_rate` times its method's own scale, times LoRA+'s ratio where it is a B, times
layer-wise decay; a group of the recipe scales that or puts another in its place. Vectors have no weight decay, as in
transformers' Trainer, unless a group gives them one. A later group goes over an earlier one, key by key.

References:
    Hayou et al., LoRA+, arXiv 2402.12354. Layer-wise decay: Howard and Ruder, arXiv 1801.06146, section 3.2; its
    numbering (the head's rate is whole, the last layer's is decayed once) is that of Bao et al., arXiv 2106.08254.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from luthier.core.errors import RecipeError
from luthier.models.places import Places

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from luthier.core.trainable import Trainable
    from luthier.recipe import Optim

LORAPLUS_EMBEDDING = 1.0e-6  # PEFT's default
_SAID = 12  # rows of the table that are said; summary.json has them all


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters that move alike.

    Attributes:
        label: Which they are, in the recipe's words.
        parameters: By name.
        scale: Factor on `optim.learning_rate`.
        weight_decay: Of all of them.
    """

    label: str
    parameters: Mapping[str, torch.nn.Parameter]
    scale: float
    weight_decay: float


@dataclass(kw_only=True)
class _Setting:
    """What one parameter gets.

    Attributes:
        scale: Method, layer-wise decay and LoRA+, multiplied.
        decay: Its weight decay.
        times: A group's factor on that.
        rate: Or a group's learning rate in the place of all that.
        by: What set the rate and the decay, for the label.
    """

    scale: float
    decay: float
    times: float = 1.0
    rate: float | None = None
    by: dict[str, str] = field(default_factory=dict)


def resolve_groups(optim: Optim, trainable: Trainable) -> tuple[Group, ...]:
    """Sort what trains by how it moves.

    Args:
        optim: The recipe's section.
        trainable: Which parameters, with their method's own scales.

    Returns:
        Every trained parameter once, in the model's order.

    Raises:
        RecipeError: A group matches nothing, or has no effect; so with LoRA+ and layer-wise decay.
    """
    settings = {
        name: _Setting(scale=group.learning_rate_scale, decay=optim.weight_decay if p.ndim > 1 else 0.0)
        for group in trainable.groups
        for name, p in group.parameters.items()
    }
    places = Places(trainable)
    parameters = places.parameters
    if optim.layer_decay is not None:
        _layer_decay(optim.layer_decay, settings, places)
    if optim.loraplus_lr_ratio is not None:
        _loraplus(optim, optim.loraplus_lr_ratio, settings, parameters)
    _apply_groups(optim, settings, places)
    found: dict[tuple[str, float, float], dict[str, torch.nn.Parameter]] = {}
    for name, s in settings.items():
        label = " + ".join(dict.fromkeys(s.by[key] for key in sorted(s.by))) or "all others"
        scale = s.scale * s.times if s.rate is None else s.rate / optim.learning_rate
        found.setdefault((label, scale, s.decay), {})[name] = parameters[name]
    return tuple(Group(label=key[0], scale=key[1], weight_decay=key[2], parameters=ps) for key, ps in found.items())


def table(optim: Optim, trainable: Trainable) -> list[dict[str, Any]]:
    """The groups as plain data: which parameters, how many tensors and numbers, peak rate and decay."""
    return [
        {
            "parameters": group.label,
            "tensors": len(group.parameters),
            "numbers": sum(p.numel() for p in group.parameters.values()),
            "learning_rate": optim.learning_rate * group.scale,
            "weight_decay": group.weight_decay,
        }
        for group in resolve_groups(optim, trainable)
    ]


def say_groups(optim: Optim, trainable: Trainable, say: Callable[[str], None]) -> None:
    """Say the table where the recipe asks for anything but one rate and one decay; also finds what is wrong with it.

    Raises:
        RecipeError: As :func:`resolve_groups`.
    """
    rows = table(optim, trainable)
    if not (optim.groups or optim.loraplus_lr_ratio or optim.layer_decay):
        return
    left_out = range(_SAID // 2, len(rows) - _SAID // 2) if len(rows) > _SAID else range(0)
    for number, row in enumerate(rows):
        if number in left_out:
            if number == left_out.start:
                say(f"  ... {len(left_out)} more groups; summary.json lists all")
            continue
        say(
            f"  {row['parameters']}: learning rate {row['learning_rate']:.3g}, weight decay {row['weight_decay']:g}, "
            f"{row['tensors']} tensor{'s' * (row['tensors'] != 1)}, {row['numbers']:,} numbers"
        )


def _loraplus(
    optim: Optim, ratio: float, settings: dict[str, _Setting], parameters: Mapping[str, torch.nn.Parameter]
) -> None:
    """As PEFT's `create_loraplus_optimizer`: B and vectors by the ratio, embeddings' updates at their own rate."""
    if not any("lora_B" in name for name in settings):
        leaves = ", ".join(sorted({".".join(name.split(".")[-2:]) for name in settings})[:6])
        raise RecipeError(
            "optim.loraplus_lr_ratio",
            f"this method trains no lora_B ({leaves} ...)",
            "a method with lora_B, such as lora",
            "remove it; optim.groups gives any parameters a rate of their own",
        )
    for name, setting in settings.items():
        if "lora_embedding_" in name:
            rate = LORAPLUS_EMBEDDING if optim.loraplus_lr_embedding is None else optim.loraplus_lr_embedding
            setting.scale, setting.by["lora+"] = rate / optim.learning_rate, "lora_embedding"
        elif "lora_B" in name or parameters[name].ndim == 1:
            setting.scale *= ratio
            setting.by["lora+"] = "lora_B" if "lora_B" in name else "vectors"


def _layer_decay(decay: float, settings: dict[str, _Setting], places: Places) -> None:
    depths = {name: places.depth(name, "optim.layer_decay") for name in settings}
    if len(set(depths.values())) < 2:
        received = "all trained parameters stand at one depth"
        raise RecipeError("optim.layer_decay", received, "a method that trains in several layers", "remove it")
    for name, (steps, label) in depths.items():
        settings[name].scale *= decay**steps
        settings[name].by["layer"] = label


def _apply_groups(optim: Optim, settings: dict[str, _Setting], places: Places) -> None:
    rates: dict[str, int] = {}
    decays: dict[str, int] = {}
    for number, group in enumerate(optim.groups):
        where = f"optim.groups.{number}"
        label = ", ".join(group.parameters)
        for name in places.matched(group.parameters, f"{where}.parameters"):
            setting = settings[name]
            if group.learning_rate is not None or group.learning_rate_scale is not None:
                setting.rate, setting.times = group.learning_rate, group.learning_rate_scale or 1.0
                rates[name], setting.by["own rate"] = number, label
            if group.weight_decay is not None:
                decays[name], setting.decay, setting.by["own weight decay"] = number, group.weight_decay, label
    for number, group in enumerate(optim.groups):
        if number not in rates.values() and number not in decays.values():
            received = f"{', '.join(group.parameters)}: later groups go over all that it says"
            raise RecipeError(f"optim.groups.{number}", received, "the last group that matches wins", "move it down")
