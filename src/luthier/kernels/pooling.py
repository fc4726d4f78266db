# SPDX-License-Identifier: Apache-2.0
"""Pooling: one vector for each segment of a forest, from the hidden states of its tokens.

Shapes: T tokens, N segments, H hidden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch

if TYPE_CHECKING:
    from luthier.kernels.forest import Forest

Pooling = Literal["mean", "cls", "last"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


def pooled(hidden_TH: torch.Tensor, forest: Forest, pooling: Pooling, *, normalize: bool = False) -> torch.Tensor:
    """A vector for each segment, float32 at least, [N, H]; zeros for a segment without tokens.

    Args:
        hidden_TH: Last hidden states, [T, H].
        forest: Of the same tokens.
        pooling: The mean over its tokens, its first (`cls`: encoders put a token there for this) or its last one.
        normalize: Scale each vector to length 1.

    Example:
        >>> import numpy as np
        >>> from luthier.core.types import Segment, Tree
        >>> from luthier.kernels.forest import plant
        >>> forest = plant([Tree(segments=(Segment(ids=np.array([5, 6], np.int32), scored=np.zeros(2, bool)),))])
        >>> [pooled(torch.tensor([[1.0], [3.0]]), forest, how).item() for how in POOLINGS]
        [2.0, 1.0, 3.0]
    """
    wide = hidden_TH.to(torch.promote_types(hidden_TH.dtype, torch.float32))
    lengths = torch.tensor(forest.lengths(), device=wide.device)
    if pooling == "mean":
        # Tokens of a segment stand together: the same bits each time, unlike additions whose order a GPU chooses.
        sums = torch.segment_reduce(wide, "sum", lengths=lengths, axis=0, unsafe=True, initial=0.0)
        found = sums / lengths.clamp(min=1).to(wide.dtype)[:, None]
    else:
        starts = torch.tensor(forest.starts, device=wide.device)
        index = starts[:-1] if pooling == "cls" else starts[1:] - 1
        found = wide[index.clamp(0, max(0, len(wide) - 1))] * (lengths > 0).to(wide.dtype)[:, None]
    return torch.nn.functional.normalize(found, dim=1) if normalize else found
