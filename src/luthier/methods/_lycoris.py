# SPDX-License-Identifier: Apache-2.0
"""What LoHa and LoKr share: PEFT's keys of LyCORIS methods, ranks and scalings by pattern, and what is dropped.

    y = x W^T + b + gamma x D^T        D [N, K] is made of small matrices; gamma = alpha / r

`rank_dropout` drops rows of D (numbers of the output) in training, `module_dropout` all of it; both are drawn once
for a pass, not for each token, as in PEFT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from transformers.pytorch_utils import Conv1D

from luthier.core.errors import RecipeError
from luthier.methods import _peft
from luthier.methods._lora_plan import check_patterns
from luthier.methods._lowrank import LoraLayer, scaling_of
from luthier.methods._updates import LinearKeys
from luthier.models.targets import endings_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

USED = ("r", "alpha", "rank_dropout", "module_dropout", "rank_pattern", "alpha_pattern")
RESOLVED = ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern")
HARMLESS = ("init_weights", "use_effective_conv2d")  # how it began, and of convolutions, which are no targets


class LycorisKeys(LinearKeys):
    """The keys that both have, spelt as in PEFT."""

    r: Annotated[int, Field(gt=0)] = 8
    """Rank of the small matrices."""
    alpha: Annotated[float, Field(gt=0.0)] = 8.0
    """Scaling is alpha / r."""
    rank_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of an update's outputs that is dropped in training, drawn once a pass."""
    module_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """How often a layer's whole update is dropped in training."""
    rank_pattern: dict[str, Annotated[int, Field(gt=0)]] = Field({})
    """Other ranks by name ending or regular expression: `{down_proj: 4}`."""
    alpha_pattern: dict[str, Annotated[float, Field(gt=0.0)]] = Field({})
    """Other alpha by name ending or regular expression."""


@dataclass(frozen=True, kw_only=True)
class Drops:
    """What a layer drops in training.

    Attributes:
        rows: Share of the outputs.
        whole: Probability that all of it is dropped.
        rescaled: Whether the rows that stay are multiplied, so that their mean stays.
    """

    rows: float
    whole: float
    rescaled: bool

    def factors(self, outputs: int, device: torch.device) -> torch.Tensor | None:
        """What each output's row is multiplied by, [N], or None where nothing is dropped.

        A layer that is dropped whole is multiplied by zeros: its parameters get gradients of zero, so that every rank
        of a distributed run, and every optimiser, sees the same ones in each step.
        """
        if not (self.rows or self.whole):
            return None
        kept = (torch.rand(outputs, device=device) >= self.rows).float()
        if self.rescaled:
            kept = kept / kept.mean().clamp_min(1 / outputs)
        return kept * (torch.rand((), device=device) >= self.whole)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Rank and alpha of each layer, by its name."""

    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def scaling(self, name: str) -> float:
        """alpha / r of a layer."""
        return scaling_of(self.ranks[name], self.alphas[name], False)


def sizes_of(config: LycorisKeys, targets: dict[str, nn.Module], *, check: bool = True) -> Sizes:
    """Rank and alpha of each target.

    Args:
        config: The recipe's section, or what a folder says.
        targets: The layers.
        check: Whether a pattern must match something.

    Raises:
        RecipeError: A pattern matches nothing.
    """
    if check:
        check_patterns(config, targets)
    return Sizes(
        ranks={name: _peft.by_pattern(config.rank_pattern, name, config.r) for name in targets},
        alphas={name: _peft.by_pattern(config.alpha_pattern, name, config.alpha) for name in targets},
    )


def told_of(
    model: nn.Module, kind: str, config: LycorisKeys, targets: dict[str, nn.Module], sizes: Sizes
) -> dict[str, Any]:
    """A method's own part of adapter_config.json."""
    every = [name for name, _ in model.named_modules() if name]
    return {
        "peft_type": kind,
        "r": config.r,
        "alpha": _peft.whole_number(config.alpha),
        "rank_dropout": config.rank_dropout,
        "module_dropout": config.module_dropout,
        "use_effective_conv2d": False,
        "target_modules": endings_of(targets, every),
        "exclude_modules": None,
        "rank_pattern": _peft.patterns_for(sizes.ranks, config.r, config.rank_pattern),
        "alpha_pattern": _peft.patterns_for(sizes.alphas, config.alpha, config.alpha_pattern),
        "init_weights": True,
    }


def check_scaling(model: nn.Module, given: Mapping[str, Any], where: str, kind: type[LoraLayer]) -> None:
    """Compare the scaling of a folder with the layers that a recipe made: the tensors alone do not tell it.

    Raises:
        RecipeError: It has another r or alpha somewhere.
    """
    r0, alpha0 = given.get("r", 8), given.get("alpha", 8)
    for name, layer in model.named_modules():
        if not isinstance(layer, kind):
            continue
        r = _peft.by_pattern(given.get("rank_pattern") or {}, name, r0)
        scaling = scaling_of(r, _peft.by_pattern(given.get("alpha_pattern") or {}, name, alpha0), False)
        if abs(scaling - layer.scaling) > 1e-6 * scaling:
            received = f"{where} has scaling {scaling:.6g} on {name}, the recipe {layer.scaling:.6g}"
            raise RecipeError(
                "model.adapter_name_or_path",
                received,
                "the same r, alpha and patterns",
                f"write r: {r0}, alpha: {alpha0}",
            )


def shape_of(base: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a linear."""
    rows, columns = base.weight.shape  # type: ignore[misc]
    return (columns, rows) if isinstance(base, Conv1D) else (rows, columns)
