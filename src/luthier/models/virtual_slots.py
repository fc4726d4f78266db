# SPDX-License-Identifier: Apache-2.0
"""Virtual tokens as what a sequence in a slot begins with: keys and values of every layer, whatever they trained as.

    prefix                    they are keys and values
    prompt, P-tuning          embeddings: run through the layers once, at the first positions of a slot

A model that goes on from there needs no hook before its decoder: its own tokens stand behind them in the slot.

Shapes: n virtual tokens, K key heads, D head size.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from luthier.kernels.slots import Layout, Piece
from luthier.models.slots import NAME, Slots
from luthier.models.virtual import virtual_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from luthier.models.slots import Begun


@contextmanager
def on_slots(model: PreTrainedModel) -> Iterator[None]:
    """Inside, a model runs on slots, in evaluation mode, without gradients, its virtual tokens switched off."""
    training, before, virtual = model.training, model.config._attn_implementation, virtual_of(model)
    active = virtual is not None and virtual.active
    model.eval()
    model.set_attn_implementation(NAME)
    try:
        if virtual is not None:
            virtual.active = False
        with torch.no_grad():
            yield
    finally:
        if virtual is not None:
            virtual.active = active
        model.set_attn_implementation(before)
        model.train(training)


def virtual_begun(model: PreTrainedModel) -> Begun | None:
    """What every sequence of a model begins with.

    Args:
        model: Left as it was.

    Returns:
        Keys and values [K, n, D] of each layer; None where no virtual tokens are switched on.
    """
    virtual = virtual_of(model)
    if virtual is None or not virtual.active:
        return None
    length, decoder = virtual.length, model.get_decoder()
    embedding: Any = model.get_input_embeddings()
    slots, layout = Slots(1, length), Layout([Piece(slot=0, begin=0, ids=[0] * length)], model.device)
    with on_slots(model):
        if virtual.heads is not None:
            states = virtual.states(next(decoder.parameters()).dtype)
            return [(states[place], states[place + 1]) for place in range(0, len(states), 2)]
        vectors = virtual().to(embedding.weight.dtype)
        with slots.passing(layout):
            decoder(inputs_embeds=vectors[None], position_ids=layout.position_ids[None], use_cache=False)
    return slots.begun(0, length)
