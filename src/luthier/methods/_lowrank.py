# SPDX-License-Identifier: Apache-2.0
"""Low-rank updates as modules: what LoRA and its kin put in the place of a linear or an embedding.

Shapes: K inputs, N outputs, r rank, V words, H hidden.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

from luthier.kernels.lowrank import lowrank_linear

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from transformers import PreTrainedModel


def scaling_of(r: int, lora_alpha: float, use_rslora: bool) -> float:
    """gamma: alpha / r (arXiv 2106.09685), or alpha / sqrt(r) (rank-stabilised, arXiv 2312.03732).

    Example:
        >>> scaling_of(16, 16, False), scaling_of(16, 16, True)
        (1.0, 4.0)
    """
    return lora_alpha / math.sqrt(r) if use_rslora else lora_alpha / r


class LoraLayer(nn.Module):
    """What the two kinds share: a frozen base, A, B, gamma, and a switch."""

    base_layer: nn.Module
    lora_A: nn.Parameter
    lora_B: nn.Parameter

    def __init__(self, base: nn.Module, shape_a: tuple[int, int], shape_b: tuple[int, int], scaling: float, dropout: float):
        super().__init__()
        weight: torch.Tensor = base.weight  # type: ignore[assignment]
        self.base_layer = base
        # Float32 also beside a bfloat16 base: updates below 2^-8 of a weight would vanish otherwise.
        wide = torch.promote_types(weight.dtype, torch.float32)
        self.lora_A = nn.Parameter(torch.zeros(shape_a, dtype=wide, device=weight.device))
        self.lora_B = nn.Parameter(torch.zeros(shape_b, dtype=wide, device=weight.device))
        self.scaling, self.dropout, self.active = scaling, dropout, True

    @property
    def weight(self) -> torch.Tensor:
        """The base's weight; some models read it."""
        return self.base_layer.weight  # type: ignore[return-value]

    @property
    def bias(self) -> torch.Tensor | None:
        """The base's bias."""
        return getattr(self.base_layer, "bias", None)

    def delta(self) -> torch.Tensor:
        """The update in the base weight's own layout, float32."""
        raise NotImplementedError

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Add the update to the base weight, in float32 and rounded once, and return the base."""
        weight: torch.Tensor = self.weight
        weight.copy_(weight.to(self.lora_A.dtype) + self.delta())
        return self.base_layer


class LoraLinear(LoraLayer):
    """W + gamma B A beside a frozen linear (also transposed, as GPT-2's Conv1D)."""

    def __init__(self, base: nn.Linear | Conv1D, *, r: int, scaling: float, dropout: float):
        self.transposed = isinstance(base, Conv1D)
        rows, columns = base.weight.shape
        outputs, inputs = (columns, rows) if self.transposed else (rows, columns)
        super().__init__(base, (r, inputs), (outputs, r), scaling, dropout)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.in_features, self.out_features = inputs, outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., K] to [..., N]."""
        if not self.active:
            return self.base_layer(x)  # type: ignore[no-any-return]
        weight = self.weight.T if self.transposed else self.weight
        low = F.dropout(x, self.dropout) if self.training and self.dropout else None
        return lowrank_linear(x, weight, self.bias, self.lora_A, self.lora_B, self.scaling, low)

    def logit_terms(self, hidden: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The head as a sum of products: (h, W) and (h A^T, gamma B)."""
        terms = [(hidden, self.weight)]
        if self.active:
            low = F.dropout(hidden, self.dropout) if self.training and self.dropout else hidden
            terms.append((low @ self.lora_A.to(low.dtype).T, self.scaling * self.lora_B))
        return terms

    def delta(self) -> torch.Tensor:
        """gamma B A, [N, K] (transposed for Conv1D)."""
        update = self.scaling * (self.lora_B @ self.lora_A)
        return update.T if self.transposed else update


class LoraEmbedding(LoraLayer):
    """E + gamma (B A)^T beside a frozen embedding: A [r, V], B [H, r] as PEFT keeps them; A starts at zero, B normal."""

    def __init__(self, base: nn.Embedding, *, r: int, scaling: float, dropout: float):
        words, hidden = base.weight.shape
        super().__init__(base, (r, words), (hidden, r), scaling, dropout)
        nn.init.normal_(self.lora_B)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids [...] to [..., H]."""
        embedded: torch.Tensor = self.base_layer(ids)
        if not self.active:
            return embedded
        low = F.embedding(ids, self.lora_A.T)
        factor = self.scaling * getattr(self.base_layer, "scalar_embed_scale", 1.0)  # Gemma 3 scales its embedding
        return embedded + (factor * (low @ self.lora_B.T)).to(embedded.dtype)

    def delta(self) -> torch.Tensor:
        """gamma (B A)^T, [V, H]."""
        return self.scaling * (self.lora_B @ self.lora_A).T


def wrap(module: nn.Module, *, r: int, scaling: float, dropout: float) -> LoraLayer:
    """Put the fitting low-rank layer around a linear or an embedding."""
    if isinstance(module, nn.Embedding):
        return LoraEmbedding(module, r=r, scaling=scaling, dropout=dropout)
    return LoraLinear(module, r=r, scaling=scaling, dropout=dropout)  # type: ignore[arg-type]


def put(model: PreTrainedModel, name: str, module: nn.Module) -> None:
    """Set a submodule by its dotted name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def switched_off(layers: dict[str, LoraLayer]) -> AbstractContextManager[None]:
    """Inside, the layers compute what their base does."""
    from contextlib import contextmanager

    @contextmanager
    def off() -> Iterator[None]:
        before = [layer.active for layer in layers.values()]
        for layer in layers.values():
            layer.active = False
        try:
            yield
        finally:
            for layer, was in zip(layers.values(), before, strict=True):
                layer.active = was

    return off()
