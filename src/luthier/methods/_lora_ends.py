# SPDX-License-Identifier: Apache-2.0
"""Low-rank updates at both ends of a model: of an embedding, and of a head that is tied to it.

    LoraEmbedding   e = E[ids] + gamma (B A)^T[ids]          A [r, V], B [H, r], the way round that PEFT keeps them
    TiedLoraHead    a head whose matrix is the embedding's: its update is the embedding's update, read the other way

Shapes: r rank, V words, H hidden.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from luthier.methods._lowrank import LoraLayer, LoraLinear


class LoraEmbedding(LoraLayer):
    """E + gamma (B A)^T beside a frozen embedding. A is zero and B normal, as in PEFT; there is no dropout on ids."""

    def __init__(self, base: nn.Embedding, *, r: int, scaling: float, dropout: float) -> None:
        super().__init__(base, scaling, dropout)
        words, hidden = base.weight.shape
        self.lora_A, self.lora_B = self.matrix(r, words), self.matrix(hidden, r)
        nn.init.normal_(self.lora_B)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids [...] to [..., H]."""
        embedded: torch.Tensor = self.base_layer(ids)
        if not self.active:
            return embedded
        low = F.embedding(ids, self.lora_A.T, padding_idx=self.base_layer.padding_idx)  # type: ignore[arg-type]
        return (embedded + (low * (self.scaling * self.embed_scale)) @ self.lora_B.T).to(embedded.dtype)

    @property
    def embed_scale(self) -> Any:
        """What the base multiplies its rows by (Gemma 3, BART), rounded as it rounds it."""
        scale = getattr(self.base_layer, "embed_scale", 1.0)
        return scale.to(self.weight.dtype) if isinstance(scale, torch.Tensor) else scale

    def tensors(self) -> dict[str, torch.Tensor]:
        """By PEFT's names; these two have no `.weight` behind them."""
        return {"lora_embedding_A": self.lora_A, "lora_embedding_B": self.lora_B}

    def delta(self) -> torch.Tensor:
        """gamma (B A)^T, [V, H]."""
        return self.scaling * (self.lora_B @ self.lora_A).T


class TiedLoraHead(LoraLinear):
    """The head of a tied model whose embedding is adapted: one update for the one matrix.

    With A [r, V] and B [H, r] of the embedding, its update is gamma A^T B^T: the head's own A is B^T, its B is A^T.
    It has no parameters; gradients from both ends add up in the embedding's.
    """

    def __init__(self, base: nn.Module, source: LoraEmbedding, *, dropout: float) -> None:
        super().__init__(base, r=source.r, scaling=source.scaling, dropout=dropout)
        self.source = (source,)  # in a tuple, so that it is not a submodule a second time

    def make(self, r: int) -> None:
        """Nothing is drawn."""

    @property
    def lora_A(self) -> torch.Tensor:  # type: ignore[override]
        """The embedding's B, [r, H]."""
        return self.source[0].lora_B.T

    @property
    def lora_B(self) -> torch.Tensor:  # type: ignore[override]
        """The embedding's A, [V, r]."""
        return self.source[0].lora_A.T

    def merge(self) -> nn.Module:
        """Take the embedding's merged matrix; the embedding is merged first."""
        self.base_layer.weight = self.source[0].weight
        return self.base_layer


def wrap(module: nn.Module, *, r: int, scaling: float, dropout: float) -> LoraLayer:
    """Put the fitting low-rank layer around a linear or an embedding."""
    if isinstance(module, nn.Embedding):
        return LoraEmbedding(module, r=r, scaling=scaling, dropout=dropout)
    return LoraLinear(module, r=r, scaling=scaling, dropout=dropout)
