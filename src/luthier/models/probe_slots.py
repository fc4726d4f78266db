# SPDX-License-Identifier: Apache-2.0
"""Prove, before a model is served, that its passes over slots give each adapter what its own forward gives."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from luthier.core.errors import ModelError
from luthier.core.types import Segment, Tree
from luthier.kernels.forest import plant
from luthier.kernels.slots import Layout, Piece
from luthier.models.backbone import scored_logprobs
from luthier.models.failures import UNKNOWN_WAYS
from luthier.models.rounding import MEAN_TOLERANCE, TOLERANCE
from luthier.models.side_by_side import shares_of
from luthier.models.slots import Slots
from luthier.models.virtual_slots import virtual_begun

if TYPE_CHECKING:
    from luthier.models.side_by_side import SideBySide
    from luthier.models.slots import Begun

_LENGTH = 14
_FIRST, _NEXT = 5, 4  # tokens of the first two chunks; the others come one by one


@torch.no_grad()
def prove_slots(side: SideBySide) -> float:
    """Check passes over slots: a prompt in two chunks, then token by token, all members at once and out of step.

    Args:
        side: In evaluation mode, its trunk on attention `luthier_slots`.

    Returns:
        The largest difference of a log-probability, in nats.

    Raises:
        ModelError: They differ, or a layer cannot run so.
    """
    where, fix = f"model {type(side.trunk).__name__}", "`luthier generate` and `luthier evaluate` still run it"
    try:
        begun = [virtual_begun(member) for member in side.members]
        difference = torch.cat([_difference(side, member, begun) for member in range(len(side.members))])
    except UNKNOWN_WAYS as error:
        raise ModelError(where, f"it cannot be served: {str(error)[:200]}", fix=fix) from error
    largest, mean = float(difference.max()), float(difference.mean())
    dtype = side.trunk.dtype
    if not (largest <= TOLERANCE[dtype] and mean <= MEAN_TOLERANCE[dtype]):
        received = f"served, it differs by {largest:.2g} nats from its own forward, {mean:.2g} on average"
        raise ModelError(where, received, fix=fix)
    return largest


def _difference(side: SideBySide, member: int, begun: list[Begun | None]) -> torch.Tensor:
    """Of each token of one member's text, while every member writes one."""
    device, count = side.trunk.device, len(side.members)
    vocabulary = int(side.trunk.get_input_embeddings().weight.shape[0])
    ids = np.random.default_rng(member).integers(0, vocabulary, _LENGTH).astype(np.int32)
    scored = np.arange(_LENGTH) >= _FIRST
    tree = Tree(segments=(Segment(ids=ids, scored=scored),))
    wanted = scored_logprobs(side.members[member], plant([tree]).to(device))
    before = [0 if one is None else one[0][0].shape[1] for one in begun]  # virtual tokens
    slots, got = Slots(count + 1, _LENGTH + max(before)), []
    _run(side, slots, [Piece(slot=0, begin=0, ids=[0])])  # which makes the slots
    for other, states in enumerate(begun):
        if states is not None:
            slots.put([count - other], states)
    bounds = [0, _FIRST, _FIRST + _NEXT, *range(_FIRST + _NEXT + 1, _LENGTH + 1)]
    for begin, end in pairwise(bounds):
        # Slots the other way round, and the others' texts of another length, so that a wrong row or position shows.
        pieces = [
            Piece(slot=count - other, begin=first + begin, ids=ids[begin:end].tolist(), adapter=other)
            if other == member
            else Piece(
                slot=count - other, begin=first, ids=[other % vocabulary] * (1 + (begin + other) % 3), adapter=other
            )
            for other, first in enumerate(before)
        ]
        logits = _run(side, slots, pieces)
        if end < _LENGTH and end >= _FIRST:
            got.append(torch.log_softmax(logits[member], -1)[int(ids[end])])
    told = [place - _FIRST for place in bounds[1:-1]]
    return (torch.stack(got) - wanted[told]).double().abs()


def _run(side: SideBySide, slots: Slots, pieces: list[Piece]) -> torch.Tensor:
    """One pass: what follows each piece."""
    layout = Layout(pieces, side.trunk.device)
    with slots.passing(layout):
        return side.logits(layout.input_ids, layout.position_ids, layout.ends, shares_of(pieces, len(side.members)))
