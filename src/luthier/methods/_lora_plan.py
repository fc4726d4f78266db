# SPDX-License-Identifier: Apache-2.0
"""LoRA's keys, and what they mean for one model: which layers get an update, of which rank and scaling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from luthier.core.errors import RecipeError
from luthier.methods._beside import complete_pair, find_whole, inside, refuse_both
from luthier.methods._peft import by_pattern, unmatched
from luthier.methods._starts import FROM_BASE, Start
from luthier.methods._updates import LinearKeys
from luthier.models.targets import find_targets, is_linear, nearest

if TYPE_CHECKING:
    from torch import nn


class LowRankKeys(LinearKeys):
    """The keys that LoRA and LoRA-FA have, spelt as in PEFT."""

    r: Annotated[int, Field(gt=0)] = 16
    """Rank of the update."""
    lora_alpha: Annotated[float, Field(gt=0.0)] = 16.0
    """Scaling is lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora."""
    use_rslora: bool = False
    """Rank-stabilised scaling."""
    lora_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the low-rank branch's inputs that is dropped in training."""
    rank_pattern: dict[str, Annotated[int, Field(gt=0)]] = Field({})
    """Other ranks by name ending or regular expression: `{down_proj: 64}`."""
    alpha_pattern: dict[str, Annotated[float, Field(gt=0.0)]] = Field({})
    """Other lora_alpha by name ending or regular expression."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases train besides: none, all of the model's, or those of the adapted layers."""


class Config(LowRankKeys):
    """LoRA's keys, spelt as in PEFT."""

    use_dora: bool = False
    """Train the length of each row of the updated matrix besides (DoRA)."""
    init_lora_weights: Start = True
    """Where A and B start: true (A Kaiming-uniform, B zero), `gaussian`, or from the base: olora, pissa, loftq."""
    ensure_weight_tying: bool = False
    """In a tied model: one update (or one whole copy) for head and embedding together."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is going to be rewired, known before the model is touched.

    `tied` names embedding and head where they share what trains; both are then in `targets` or in `whole`.
    """

    targets: dict[str, nn.Module]
    whole: dict[str, nn.Module]
    ranks: dict[str, int]
    alphas: dict[str, float]
    tied: tuple[str, str] | None = None


def make_plan(model: nn.Module, config: Config) -> Plan:
    """Resolve a recipe's keys; the model stays as it is.

    Raises:
        RecipeError: A target or pattern matches nothing, r is larger than a layer, or two keys contradict each other.
    """
    whole = find_whole(model, config.modules_to_save)
    targets = find_targets(
        model,
        config.target_modules,
        exclude_modules=config.exclude_modules,
        layers_to_transform=config.layers_to_transform,
    )
    refuse_both(config.target_modules, whole)
    targets = {name: module for name, module in targets.items() if not inside(name, whole)}
    tied = complete_pair(model, targets, whole) if config.ensure_weight_tying else None
    if config.use_dora and tied and tied[1] in targets:
        received = "true, with use_dora: an update that two ends share has two lengths"
        raise RecipeError("method.ensure_weight_tying", received, "one of them", "leave one of them out")
    _check_start(config)
    check_patterns(config, targets)
    plan = plan_of(config, targets, whole, tied)
    _check_ranks(config, plan)
    return plan


def plan_of(
    config: Config, targets: dict[str, nn.Module], whole: dict[str, nn.Module], tied: tuple[str, str] | None
) -> Plan:
    """Each layer's rank and alpha, by its name.

    Raises:
        RecipeError: Two ends that share one update have different ones.
    """
    ranks = {name: by_pattern(config.rank_pattern, name, config.r) for name in targets}
    alphas = {name: by_pattern(config.alpha_pattern, name, config.lora_alpha) for name in targets}
    if tied and tied[1] in targets:
        embedding, head = tied
        if (ranks[embedding], alphas[embedding]) != (ranks[head], alphas[head]):
            received = f"different values for {embedding} and {head}, which share one update"
            raise RecipeError("method.rank_pattern", received, "the same r and lora_alpha for both")
    return Plan(targets=targets, whole=whole, ranks=ranks, alphas=alphas, tied=tied)


def written_numbers(config: Config, plan: Plan) -> tuple[int, float, dict[str, int], dict[str, float]]:
    """r and lora_alpha, in general and of each layer, as the file says them: 2 r where the start came from the base.

    The scaling stays: lora_alpha grows as r does, or as its root with `use_rslora`.
    """
    if config.init_lora_weights not in FROM_BASE:
        return config.r, config.lora_alpha, plan.ranks, plan.alphas
    more = math.sqrt(2) if config.use_rslora else 2
    twice = [name for name, module in plan.targets.items() if is_linear(module)]
    ranks = plan.ranks | {name: 2 * plan.ranks[name] for name in twice}
    return 2 * config.r, more * config.lora_alpha, ranks, plan.alphas | {n: more * plan.alphas[n] for n in twice}


def _check_start(config: Config) -> None:
    """A start from the base is a part of the base: what is dropped of it, or stretched, is no small update."""
    if config.init_lora_weights in FROM_BASE:
        for key in ("lora_dropout", "use_dora"):
            if getattr(config, key):
                received = f"{getattr(config, key)}, with init_lora_weights: {config.init_lora_weights}".lower()
                raise RecipeError(f"method.{key}", received, "one of them", "leave one of them out")


def check_patterns(config: LinearKeys, targets: dict[str, nn.Module]) -> None:
    """Refuse patterns of ranks and alphas that match nothing.

    Raises:
        RecipeError: One does not, or there are no targets.
    """
    if not targets:
        received = f"{config.target_modules!r}, all of which modules_to_save trains whole"
        raise RecipeError("method.target_modules", received, "layers besides", "name other layers")
    leaves = sorted({name.split(".")[-1] for name in targets})
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in unmatched(getattr(config, key), targets, f"method.{key}"):
            received = f"{pattern!r} matches none of the targets"
            allowed = f"endings of the targets ({', '.join(leaves)}) or regular expressions"
            raise RecipeError(f"method.{key}", received, allowed, nearest(pattern, leaves) or "correct or remove it")


def _check_ranks(config: Config, plan: Plan) -> None:
    for name, module in plan.targets.items():
        rows, columns = module.weight.shape  # type: ignore[misc]
        rank, most = plan.ranks[name], min(rows, columns)
        if rank > most:
            raise RecipeError(
                "method.r" if rank == config.r else "method.rank_pattern",
                f"rank {rank} for {name}, which is {rows} x {columns}",
                f"at most {most} there: a larger one only costs",
                f"lower r, or give this layer its own: rank_pattern: {{{name.split('.')[-1]}: {most}}}",
            )
