# SPDX-License-Identifier: Apache-2.0
"""What a pass over a forest computes besides its tokens: pairs of tokens in attention, and padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from luthier.models.encoder_decoder import computed_tokens
from luthier.models.encoders import reads_both_ways
from luthier.models.source_target import is_encoder_decoder
from luthier.models.tasks import is_encoder

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

    from luthier.kernels.forest import Forest

Reading = Literal["past", "both ways", "source"]


def seen_pairs(model: nn.Module, forest: Forest) -> int:
    """Pairs of a token and one that it sees, itself included (windows and padding left aside).

    A decoder's token sees what stands before it; an encoder's its whole text. A target's token sees the target's
    earlier ones and its whole source, a source's token all of its source.

    Example:
        >>> import numpy as np
        >>> from torch import nn
        >>> from luthier.core.types import Segment, Tree
        >>> from luthier.kernels.forest import plant
        >>> text = Segment(ids=np.zeros(4, np.int32), scored=np.zeros(4, np.bool_))
        >>> seen_pairs(nn.Linear(1, 1), plant([Tree(segments=(text,))]))
        10
    """
    if is_encoder_decoder(model):
        return pairs_read(forest, "source")
    return pairs_read(forest, "both ways" if reads_both_ways(model) else "past")


def reading_of(config: PretrainedConfig) -> Reading:
    """What a token of such a model sees, told before any weight is there."""
    if getattr(config, "is_encoder_decoder", False):
        return "source"
    return "both ways" if is_encoder(config) else "past"


def pairs_read(forest: Forest, reading: Reading) -> int:
    """Pairs of a token and one that it sees, where it sees its past, its whole text, or its source besides."""
    lengths = forest.lengths()
    if reading == "source":
        roots = sum(n * n for n, parent in zip(lengths, forest.parents, strict=True) if parent < 0)
        below = [(n, lengths[parent]) for n, parent in zip(lengths, forest.parents, strict=True) if parent >= 0]
        return roots + sum(n * (n + 1) // 2 + n * source for n, source in below)
    return sum(n * n for n in lengths) if reading == "both ways" else forest.num_pairs


def padding(model: nn.Module, forest: Forest) -> int:
    """Tokens that are computed and stand for nothing; 0 but for an encoder-decoder, whose pass is padded."""
    if not is_encoder_decoder(model):
        return 0
    real = {*forest.score_segment.tolist()}
    real |= {forest.parents[segment] for segment in real}
    lengths = forest.lengths()
    return computed_tokens(forest, next(model.parameters()).device.type) - sum(lengths[segment] for segment in real)
