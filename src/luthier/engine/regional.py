# SPDX-License-Identifier: Apache-2.0
"""Compile a model layer by layer: all layers share one compiled program, and batches of any length run through it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import AttentionInterface

from luthier.core.errors import RecipeError
from luthier.models.layers import heaviest_list

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_OPAQUE = "_luthier_opaque"


def compile_layers(model: PreTrainedModel) -> int:
    """Compile each decoder layer in place; names of parameters and modules stay.

    Attention stays outside: it walks the forest's segments, and a program that contains it would be compiled anew for
    each number of segments (19 s each on the embedded model, against 10 s once).

    Args:
        model: With its method applied.

    Returns:
        How many layers.

    Raises:
        RecipeError: The model has no list of layers.
    """
    layers = decoder_layers(model)
    if not layers:
        received = f"{type(model).__name__} has no list of layers"
        raise RecipeError("train.torch_compile", received, "false", "remove train.torch_compile")
    _keep_attention_out(str(model.config._attn_implementation))
    for layer in layers:
        layer.compile(dynamic=True)
    return len(layers)


def decoder_layers(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The repeated layers of the stack that writes; empty for none."""
    return heaviest_list(model.get_decoder())


def _keep_attention_out(name: str) -> None:
    known = AttentionInterface()
    if name in known and not hasattr(known[name], _OPAQUE):
        opaque = torch.compiler.disable(known[name])
        setattr(opaque, _OPAQUE, True)
        AttentionInterface.register(name, opaque)
