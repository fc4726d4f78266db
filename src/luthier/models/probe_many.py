# SPDX-License-Identifier: Apache-2.0
"""Prove, before runs share a base, that adapters run side by side: a shared pass must equal each member's own forward.

What a shared pass cannot give each adapter alone shows here: layers that get some of the tokens only, batch-wide
dropout, attention that reads other trees.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from luthier.core.errors import ModelError
from luthier.kernels.forest import plant
from luthier.models.backbone import scored_logprobs
from luthier.models.failures import UNKNOWN_WAYS
from luthier.models.planted import NAME
from luthier.models.probe import probe_tree
from luthier.models.rounding import MEAN_TOLERANCE, TOLERANCE
from luthier.models.values import value_head

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel

    from luthier.models.side_by_side import SideBySide

_STRAY = 0.02  # standard deviation of what is added to what trains: fresh adapters do nothing, and equal each other
_RATES = ("p", "dropout", "attention_dropout", "attn_dropout", "hidden_dropout")


def shares_passes(base: PreTrainedModel) -> str | None:
    """Why a base cannot take several adapters in a pass, or None."""
    if value_head(base) is not None:
        return f"{type(base).__name__} ends in a head of values, of which each run trains its own"
    if base.config._attn_implementation != NAME:
        return f"{type(base).__name__} runs on its own attention, which reads the whole batch"
    for name, module in base.named_modules():
        if any(isinstance(rate := getattr(module, key, None), float) and rate > 0 for key in _RATES):
            return f"{type(base).__name__} has dropout of its own ({name}), which draws for a whole batch at once"
    return None


def prove_side_by_side(side: SideBySide) -> float:
    """Check that a pass of all members gives each what its own forward gives.

    Args:
        side: Members and trunk; their parameters are moved for the check, and put back.

    Returns:
        The largest difference, in nats.

    Raises:
        ModelError: It does not; the members must run alone.
    """
    where, fix = "adapters side by side", "train each alone"
    try:
        with _strayed(side.members):
            difference = _difference(side)
    except UNKNOWN_WAYS as error:
        raise ModelError(where, f"a shared pass fails ({str(error)[:200]})", fix=fix) from error
    largest, mean = float(difference.max()), float(difference.mean())
    dtype = side.members[0].dtype
    if not (largest <= TOLERANCE[dtype] and mean <= MEAN_TOLERANCE[dtype]):
        raise ModelError(where, f"a shared pass differs by {largest:.2g} nats, {mean:.2g} on average", fix=fix)
    return largest


@torch.no_grad()
def _difference(side: SideBySide) -> torch.Tensor:
    first = side.members[0]
    vocabulary = int(first.get_input_embeddings().weight.shape[0])
    trees = [replace(probe_tree(vocabulary, place), adapter=place) for place in range(len(side.members))]
    models = [side.trunk, *side.members]
    modes = [model.training for model in models]
    try:
        for model in models:
            model.eval()
        got = side.logprobs(plant(trees).to(first.device))
        alone = [
            scored_logprobs(member, plant([tree]).to(first.device))
            for member, tree in zip(side.members, trees, strict=True)
        ]
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)
    return (got - torch.cat(alone)).double().abs()


@contextmanager
def _strayed(members: Sequence[PreTrainedModel]) -> Iterator[None]:
    """Inside, everything that trains is a little elsewhere; no random number of a run is used up."""
    trained = [p for member in members for p in member.parameters() if p.requires_grad]
    kept = [p.detach().clone() for p in trained]
    # One draw, tiled: drawing 46 million numbers for eight adapters of 25 M parameters would take half a second.
    pool = torch.randn(9973, generator=torch.Generator().manual_seed(0)) * _STRAY
    with torch.no_grad():
        for place, parameter in enumerate(trained):
            tiled = pool.roll(17 * place).repeat(parameter.numel() // len(pool) + 1)[: parameter.numel()]
            parameter.add_(tiled.view(parameter.shape).to(parameter))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, was in zip(trained, kept, strict=True):
                parameter.copy_(was)
