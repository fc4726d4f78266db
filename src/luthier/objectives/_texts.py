# SPDX-License-Identifier: Apache-2.0
"""What objectives of embeddings share: their keys, and which segments of a forest are compared.

Shapes: T tokens, N segments, H hidden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from luthier.core.errors import LuthierError
from luthier.kernels.pooling import Pooling

if TYPE_CHECKING:
    from luthier.kernels.forest import Forest


class TextConfig(BaseModel):
    """Keys that objectives of embeddings have in common."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    pooling: Pooling = "mean"
    """What the vector of a text is: the `mean` of its tokens' states, the first (`cls`) or the `last` one's."""


def children(forest: Forest) -> dict[int, list[int]]:
    """Tree -> the segments of its texts, in order."""
    found: dict[int, list[int]] = {}
    for segment, (tree, parent) in enumerate(zip(forest.trees, forest.parents, strict=True)):
        if parent >= 0:
            found.setdefault(tree, []).append(segment)
    return found


def own_part(own: torch.Tensor, joined: torch.Tensor, counts: torch.Tensor, place: int) -> torch.Tensor:
    """The joined numbers of a whole step with this micro-batch's own, which have a gradient, in their place.

    Args:
        own: Of this micro-batch.
        joined: Of all micro-batches, without gradient.
        counts: How many each micro-batch has.
        place: Which of them this is.
    """
    begin = int(counts[:place].sum())
    return torch.cat([joined[:begin].to(own), own, joined[begin + len(own) :].to(own)])


def with_own_value(whole: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """A number with the value of one's own share, and the gradient of the whole.

    Summed over the micro-batches of a step the values are the whole's, and so are the gradients, since each
    micro-batch has that of its own embeddings (gradient cache: Gao et al., arXiv 2101.06983).
    """
    return own.detach() + (whole - whole.detach())


def need_step(forest: Forest, objective: str) -> None:
    """Refuse a forest without what its whole step gathered.

    Raises:
        LuthierError: It has none.
    """
    if not forest.step:
        received = "the forest does not carry the step's embeddings"
        allowed = "each text is compared with those of the whole step"
        fix = "put the joined parts of gather into Forest.step before loss is called"
        raise LuthierError(f"objective {objective}", received, allowed, fix)


def tensor_of(values: list[int], like: torch.Tensor) -> torch.Tensor:
    """Whole numbers on the device of another tensor."""
    return torch.from_numpy(np.array(values, np.int64)).to(like.device, non_blocking=True)
