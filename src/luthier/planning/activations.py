# SPDX-License-Identifier: Apache-2.0
"""Bytes that a forward pass keeps for the backward pass: counted, not guessed.

Short forward passes of the model, with its method, show how many bytes a token and a scored token leave behind for the
backward pass. So adapters, fused layers and any architecture count as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from luthier.core.types import Segment, Tree
from luthier.kernels.forest import plant
from luthier.kernels.quantized import Quantized
from luthier.models import outputs
from luthier.models.source_target import is_encoder_decoder

if TYPE_CHECKING:
    from collections.abc import Iterable

# Bytes in 16 bits that a layer keeps for each token and unit of width, without its attention's weights.
# Reference: Korthikanti et al., arXiv 2205.05198, equation 2.
_PER_WIDTH = 34
_PROBES = (32, 64)  # tokens; the difference tells the cost of a token, the rest what is there once


class Kept(NamedTuple):
    """What stays from the forward to the backward pass.

    Attributes:
        per_token: Bytes for each token, scored or not.
        per_scored: Bytes for each scored token besides.
        once: Bytes however many tokens there are: matrices that a method makes anew in each pass.
    """

    per_token: int
    per_scored: int
    once: int = 0


def kept_bytes(model: torch.nn.Module) -> Kept:
    """Count; the random state and the model are left as they were."""
    half, full = _PROBES
    short, long = (_saved_bytes(model, tokens, tokens) for tokens in _PROBES)
    both = max(0, long - short) // (full - half)
    once = max(0, short - both * half)
    if is_encoder_decoder(model):  # half of its tokens are a target, and all of that is scored
        return Kept(both, 0, once)
    scored = max(0, long - _saved_bytes(model, full, half)) // (full - half)
    return Kept(max(0, both - scored), scored, once)


def bytes_per_token(model: torch.nn.Module) -> int:
    """Bytes that one token leaves for the backward pass, all of it scored."""
    return sum(kept_bytes(model)[:2])


def saved_by_formula(hidden_size: int, layers: int, itemsize: int) -> int:
    """The same from width and depth alone, for models whose layers do not run cut off.

    Reference:
        Korthikanti et al., arXiv 2205.05198, equation 2 without the attention's weights, which are recomputed here.

    Example:
        >>> saved_by_formula(4096, 32, 2)
        4456448
    """
    return _PER_WIDTH * hidden_size * layers * itemsize // 2


def dense_bytes(parameters: Iterable[torch.Tensor]) -> int:
    """Bytes of the largest quantised matrix where it is multiplied: one is dense at a time; 0 of other models."""
    return max((p.numel() * p.element_size() for p in parameters if isinstance(p, Quantized)), default=0)


def _saved_bytes(model: Any, tokens: int, scored: int) -> int:
    """Bytes of all storages that autograd keeps of a forward pass, parameters left out."""
    device = next(model.parameters()).device
    here = (t for t in (*model.parameters(), *model.buffers()) if not isinstance(t, Quantized))
    known = {t.untyped_storage().data_ptr() for t in here}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> None:
        """No backward pass follows. What is saved may be an operation's own result, and would keep its whole past."""
        if isinstance(tensor, Quantized):
            return  # the base's codes, which are there already
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage  # many views of one storage keep it once

    words = int(model.get_input_embeddings().weight.shape[0])
    tree = _tree(tokens, scored, words, half=is_encoder_decoder(model))
    was_training = model.training
    model.train()
    try:
        with torch.random.fork_rng(), torch.autograd.graph.saved_tensors_hooks(pack, lambda nothing: nothing):
            forest = plant([tree]).to(device)
            outputs(model, forest)
    finally:
        model.train(was_training)
    return sum(storage.nbytes() for storage in kept.values())


def _tree(tokens: int, scored: int, words: int, *, half: bool) -> Tree:
    """A text of so many words, the last of which are scored; by half a source, and a target as long."""
    ids = np.arange(tokens, dtype=np.int32) % min(words, 64)
    if not half:
        return Tree(segments=(Segment(ids=ids, scored=np.arange(tokens) >= tokens - scored),))
    parts = np.split(ids, 2)
    segments = tuple(Segment(ids=part, scored=np.full(len(part), place > 0)) for place, part in enumerate(parts))
    return Tree(segments=segments, parents=(-1, 0))
