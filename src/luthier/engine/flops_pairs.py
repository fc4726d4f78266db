# SPDX-License-Identifier: Apache-2.0
"""Operations of training an encoder-decoder, counted in one pass over a source and a target of different lengths.

    encoder            for each token of the source, with the keys and values that cross attention makes of it
    decoder, head      for each token of the target
    attention          source with source, target with target, target with source: pairs as `models.costs` counts them

Every token of a target is scored, so what a target's token costs more than a source's counts with the head. Attention
costs the same a pair in all three places where both stacks have as many layers; where not, the mean of the three.
Padding is left out, as everywhere: the count says what the rows ask for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.types import Segment, Tree
from luthier.kernels.forest import plant
from luthier.models.encoder_decoder import pair_logprobs
from luthier.models.source_target import target_layers
from luthier.models.virtual import num_virtual, virtual_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SOURCE, TARGET = 29, 11  # different, so that rows tell what a layer reads, with up to thousands of virtual tokens too


def run_pair(model: PreTrainedModel) -> bool:
    """One forward pass over one pair: whether a gradient reaches the head."""
    words = int(model.get_input_embeddings().weight.shape[0])
    ids = np.arange(SOURCE + TARGET, dtype=np.int32) % min(words, 64)
    parts = (ids[:SOURCE], ids[SOURCE:])
    segments = tuple(Segment(ids=some, scored=np.full(len(some), place > 0)) for place, some in enumerate(parts))
    reached: list[bool] = []
    hook = model.get_decoder().register_forward_hook(
        lambda module, args, out: reached.append(out.last_hidden_state.requires_grad)  # noqa: ARG005
    )
    try:
        pair_logprobs(model, plant([Tree(segments=segments, parents=(-1, 0))]).to(model.device))
    finally:
        hook.remove()
    return reached[0]


def split(model: PreTrainedModel, layers: list[tuple[int, float]]) -> tuple[float, float]:
    """Multiply-adds for each token of the source, and for each of the target.

    Args:
        model: Told for its virtual tokens.
        layers: Rows of each layer that ran in :func:`run_pair`, and what each row costs.
    """
    found = virtual_of(model)
    source = SOURCE + (num_virtual(model) if found is not None and found.heads is None else 0)
    read = sum(rows * products for rows, products in layers if rows != TARGET)
    return read / source, sum(products for rows, products in layers if rows == TARGET)


def per_pair(model: PreTrainedModel, reached: bool) -> float:
    """Multiply-adds of attention for each pair, forward and backward: the mean over encoder, decoder and between."""
    config: Any = model.config
    size = getattr(config, "d_kv", None) or config.d_model // config.num_attention_heads
    layers = (config.num_hidden_layers + 2 * target_layers(config)) / 3
    return float(layers * config.num_attention_heads * 2 * size * (3 if reached else 1))
