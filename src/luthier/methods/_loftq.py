# SPDX-License-Identifier: Apache-2.0
"""LoftQ: A and B start as what quantisation took from the base, so that the model starts near the 16-bit one.

    W - Q = U S V^T             B0 = U_r sqrt(S_r / gamma)      A0 = sqrt(S_r / gamma) V_r^T      Q + gamma B0 A0 ~ W

That is one step of the paper's alternation (T = 1, PEFT's default), for which Q stays what everybody makes of the
checkpoint: the folder is plain LoRA of rank r for the quantised base. Further steps would quantise W - gamma B A
instead, a base of this run's own that had to be kept beside its adapter. PEFT leaves gamma out of the start, which is
right for lora_alpha = r alone.

Reference:
    Li et al., LoftQ: LoRA-Fine-Tuning-Aware Quantization, arXiv 2310.08659, algorithm 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from transformers.pytorch_utils import Conv1D

from luthier.core.errors import RecipeError
from luthier.kernels.quantized import Quantized
from luthier.methods._lowrank import LinearUpdate
from luthier.methods._starts import from_base
from luthier.models.load import sixteen_bits

if TYPE_CHECKING:
    from torch import nn

    from luthier.core.trainable import Trainable


def check_loftq(model: nn.Module, use_dora: bool) -> None:
    """Refuse LoftQ where it has nothing to make good; the model stays as it is.

    Raises:
        RecipeError: The base is not quantised, was quantised already on disk, or `use_dora` is on.
    """
    key = "method.init_lora_weights"
    if use_dora:
        received = "true, with init_lora_weights: loftq: lengths would be those of another matrix"
        raise RecipeError("method.use_dora", received, "one of them", "leave one of them out")
    if getattr(model, "base_section", None) is None:
        received = "loftq, on a base whose 16-bit numbers are not known"
        fix = "set model.quantization: nf4, fp4 or int8 and name a 16-bit model, or leave init_lora_weights out"
        raise RecipeError(key, received, "a base that is quantised while it is loaded", fix)


@torch.no_grad()
def begin_loftq(trainable: Trainable) -> Trainable:
    """Put A and B of every layer around a quantised matrix where LoftQ wants them; others start as always."""
    sources = sixteen_bits(trainable.model)
    for name, layer in trainable.model.named_modules():
        if not isinstance(layer, LinearUpdate) or not isinstance(layer.weight, Quantized):
            continue
        source = sources.get_submodule(name)
        full = source.weight.T if isinstance(source, Conv1D) else source.weight
        lost = full.to(layer.lora_A) - layer.weight.to(layer.lora_A.dtype)
        a, b = from_base(lost, layer.r, layer.scaling, "pissa")
        layer.lora_A.copy_(a)
        layer.lora_B.copy_(b)
    return replace(trainable, starts_as_base=False)
