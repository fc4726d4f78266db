# SPDX-License-Identifier: Apache-2.0
"""Virtual tokens as what a sequence in a slot begins with: keys and values of every layer, whatever they trained as.

    prefix                    they are keys and values
    prompt, P-tuning          embeddings: run through the layers once, at the first positions of a slot

A model that goes on from there needs no hook before its decoder: its own tokens stand behind them in the slot.

Shapes: n virtual tokens, K key heads, D head size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from luthier.core.errors import ModelError
from luthier.kernels.slots import Layout, Piece
from luthier.models.slots import Slots
from luthier.models.virtual import virtual_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from luthier.models.slots import Begun


@torch.no_grad()
def virtual_begun(model: PreTrainedModel) -> Begun | None:
    """What every sequence of a model begins with.

    Args:
        model: On slots, in evaluation mode, with its virtual tokens switched off.

    Returns:
        Keys and values [K, n, D] of each layer; None where it has no virtual tokens.
    """
    virtual = virtual_of(model)
    if virtual is None:
        return None
    length, decoder = virtual.length, model.get_decoder()
    if virtual.heads is not None:
        states = virtual.states(next(decoder.parameters()).dtype)
        return [(states[place], states[place + 1]) for place in range(0, len(states), 2)]
    embedding: Any = model.get_input_embeddings()
    slots, layout = Slots(1, length), Layout([Piece(slot=0, begin=0, ids=[0] * length)], model.device)
    vectors = virtual().to(embedding.weight.dtype)
    with slots.passing(layout):
        decoder(inputs_embeds=vectors[None], position_ids=layout.position_ids[None], use_cache=False)
    return slots.begun(0, length)
