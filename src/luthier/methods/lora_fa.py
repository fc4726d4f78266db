# SPDX-License-Identifier: Apache-2.0
"""LoRA-FA: LoRA whose A stays as it was drawn; B alone trains, so no layer keeps its input for the backward pass.

    y = x W^T + gamma (x A^T) B^T        A [r, K] random and frozen, B [N, r] zero

The gradient of A is what LoRA keeps x for. Without it a layer keeps s = x A^T, r numbers a token. The folder is PEFT's
LORA with both matrices, so whatever serves LoRA serves it.

Reference:
    Zhang et al., LoRA-FA: Memory-efficient Low-rank Adaptation for Large Language Models Fine-tuning, arXiv 2308.03303,
    section 3.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from torch import nn

from luthier.methods._lora_layers import rewire
from luthier.methods._lora_plan import Config as LoraConfig
from luthier.methods._lora_plan import LowRankKeys, make_plan
from luthier.methods._lowrank import LoraLinear
from luthier.methods._updates import refuse_tables

if TYPE_CHECKING:
    import torch

    from luthier.core.trainable import Trainable

SHARES_BASE = True  # what it trains stands beside the base


class Config(LowRankKeys):
    """The keys of LoRA-FA, spelt as those of PEFT's LoRA."""

    init_lora_weights: Literal[True, "gaussian"] = True
    """How A is drawn: true (Kaiming-uniform), or `gaussian`; B starts at zero."""


class FrozenA(LoraLinear):
    """W + gamma B A with a trained B in the place of a frozen linear."""

    def make(self, r: int) -> None:
        """Draw A; B is zero."""
        self.register_buffer("lora_A", self.matrix(r, self.in_features).detach(), persistent=False)
        self.lora_B = self.matrix(self.out_features, r)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def tensors(self) -> dict[str, torch.Tensor]:
        """B by PEFT's name."""
        return {"lora_B.weight": self.lora_B}


def apply(model: nn.Module, config: Config) -> Trainable:
    """Freeze the model and put low-rank layers whose B trains around its linears.

    Args:
        model: Loaded by :func:`luthier.models.load_model`, or any module; changed in place.
        config: The recipe's section.

    Raises:
        RecipeError: A target or pattern matches nothing, or an embedding (its A starts at zero, and would stay there);
            r is larger than a layer, or two keys contradict each other. The model is then as it was.

    Reference:
        Zhang et al., arXiv 2308.03303, section 3.
    """
    whole = LoraConfig(**config.model_dump())
    plan = make_plan(model, whole)
    refuse_tables(plan.targets)
    return rewire(model, whole, plan, FrozenA)
