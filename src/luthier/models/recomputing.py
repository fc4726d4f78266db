# SPDX-License-Identifier: Apache-2.0
"""Layers that run again in the backward pass: which ones, and where their inputs wait until then.

    kept         all that its backward pass needs
    recomputed   its input; the layer runs again, with the same dropout
    offloaded    nothing: it runs again too, and its input waits in the host's pinned memory

All three are the same gradient: to the bit in decoders, to rounding in T5.

Reference:
    Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174, section 4.1.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from luthier.models.layers import heaviest_list
from luthier.models.source_target import is_encoder_decoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel


def repeated_layers(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The repeated layers in the order in which they run: the encoder's before the decoder's; empty for none."""
    stacks = [model.get_encoder(), model.get_decoder()] if is_encoder_decoder(model) else [model.get_decoder()]
    return [layer for stack in stacks for layer in heaviest_list(stack)]


def one_by_one(layers: Sequence[torch.nn.Module]) -> bool:
    """Whether some of these layers can run again and others not: older models know all or none."""
    return all(isinstance(layer, GradientCheckpointingLayer) for layer in layers)


def recompute_layers(
    model: PreTrainedModel,
    on: bool = True,
    layers: Sequence[torch.nn.Module] | None = None,
    offloaded: Sequence[torch.nn.Module] = (),
) -> None:
    """Keep only each layer's input and run the layer again in the backward pass, with the same dropout, or stop that.

    transformers renamed the switches after 5.17 and warns about the old names.

    Args:
        model: Any that can.
        on: Or stop it, in all of them.
        layers: Those that are run again; None: all.
        offloaded: Those among them whose inputs wait in the host's memory.
    """
    if on:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})  # the reentrant kind needs an input that has a gradient; LoRA's has none
    else:
        disable = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
        disable()
    if on and layers is not None:
        chosen = {id(layer) for layer in layers}
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer) and id(module) not in chosen:
                module.gradient_checkpointing = False
    for layer in offloaded:
        told: Any = layer
        told._gradient_checkpointing_func = partial(_waiting, told._gradient_checkpointing_func)


def _waiting(run: Any, function: Any, *inputs: Any) -> Any:
    """Run a layer that is run again; what is saved of its inputs goes to the host.

    What the layer itself saves goes through hooks of its own, which are inside of these and keep nothing.
    """
    with torch.autograd.graph.save_on_cpu(pin_memory=True):
        return run(function, *inputs)
