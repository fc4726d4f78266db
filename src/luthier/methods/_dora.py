# SPDX-License-Identifier: Apache-2.0
"""DoRA as modules: the low-rank update turns the rows of W, and a trained vector sets their lengths.

    W' = m / |W + gamma B A| * (W + gamma B A)        m [N] starts at |W|, so W' starts as W

The lengths |.| (of each row of a linear; of each column of an embedding [V, H], as in PEFT) are constants of the
backward pass (section 4.3). They are never read off the sum itself, which would be a second matrix as large as W:

    |w + gamma b A|^2 = |w|^2 + 2 gamma b . (w A^T) + gamma^2 b (A A^T) b^T

Shapes: K inputs, N outputs, r rank, V words, H hidden.

Reference:
    Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, arXiv 2402.09353, equation 5.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from luthier.kernels.lowrank import lowrank_linear, multiply_adds
from luthier.methods._lora_ends import LoraEmbedding
from luthier.methods._lowrank import LinearUpdate, LoraLayer

MAGNITUDE = "lora_magnitude_vector"


@torch.no_grad()
def lengths(weight_NK: torch.Tensor, a_rK: torch.Tensor, b_Nr: torch.Tensor, scaling: float) -> torch.Tensor:
    """Length of each row of W + gamma B A, in A's type.

    Args:
        weight_NK: W; may be a transposed view.
        a_rK: A.
        b_Nr: B.
        scaling: gamma.

    Returns:
        [N].

    Example:
        >>> lengths(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[4.0]]), 2.0)
        tensor([12.3693])
    """
    plain = torch.linalg.vector_norm(weight_NK, dim=1, dtype=a_rK.dtype).square()
    cross = ((weight_NK @ a_rK.to(weight_NK.dtype).T).to(b_Nr.dtype) * b_Nr).sum(1)
    low = ((b_Nr @ (a_rK @ a_rK.T)) * b_Nr).sum(1)
    square = plain + 2 * scaling * cross + scaling**2 * low
    return square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()


def _length_products(weight_NK: torch.Tensor, r: int) -> int:
    """Multiply-adds of :func:`lengths`: W A^T, A A^T and B (A A^T)."""
    rows, columns = weight_NK.shape
    return r * rows * columns + r * r * (rows + columns)


class DoraLinear(LinearUpdate):
    """m / |W + gamma B A| * (W + gamma B A) in the place of a linear (also GPT-2's Conv1D)."""

    def __init__(self, base: nn.Module, *, r: int, scaling: float, dropout: float) -> None:
        super().__init__(base, r=r, scaling=scaling, dropout=dropout)
        self.lora_magnitude_vector = nn.Parameter(lengths(self.matrix_NK, self.lora_A, self.lora_B, self.scaling))

    def stretch(self) -> torch.Tensor:
        """m / |W + gamma B A|, [N]; a gradient reaches m alone."""
        return self.lora_magnitude_vector / lengths(self.matrix_NK, self.lora_A, self.lora_B, self.scaling)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., K] to [..., N]."""
        if not self.active:
            return self.base_layer(x)
        stretch = self.stretch()
        if self.training and self.dropout:  # as in PEFT, what DoRA changes sees the dropped input and the base does not
            low = F.dropout(x, self.dropout)
            turned = lowrank_linear(low, self.matrix_NK, None, self.lora_A, self.lora_B, self.scaling)
            y = self.base_layer(x) + stretch * turned - F.linear(low, self.matrix_NK)
            return y.to(x.dtype)
        y = stretch * lowrank_linear(x, self.matrix_NK, None, self.lora_A, self.lora_B, self.scaling)
        return (y if self.bias is None else y + self.bias).to(x.dtype)

    def logit_terms(self, hidden: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The head as a sum of products: (h, s W) and (gamma h A^T, s B) with s the stretch of each row."""
        if not self.active:
            return [(hidden, self.weight)]
        stretch, terms, low = self.stretch()[:, None], [], hidden
        matrix = (stretch * self.weight).to(self.weight.dtype)
        if self.training and self.dropout:
            low, matrix = F.dropout(hidden, self.dropout), matrix - self.weight
            terms = [(hidden, self.weight)]
        product = self.scaling * (low @ self.lora_A.to(low.dtype).T)
        return [*terms, (low, matrix), (product, stretch * self.lora_B)]

    def row_products(self, reached: bool) -> int:
        """Of A and B; with dropout, x W^T twice more: of the dropped input, to turn it and to take it off."""
        return super().row_products(reached) + (2 * multiply_adds(self.matrix_NK, reached) if self.dropout else 0)

    def pass_products(self) -> int:
        """Of the lengths."""
        return _length_products(self.matrix_NK, self.r)

    def tensors(self) -> dict[str, torch.Tensor]:
        """A, B and m by PEFT's names."""
        return super().tensors() | {MAGNITUDE: self.lora_magnitude_vector}

    def delta(self) -> torch.Tensor:
        """W' - W in the base weight's layout."""
        stretch = self.stretch() if self.transposed else self.stretch()[:, None]
        wide = self.weight.to(self.lora_A.dtype)
        return stretch * (wide + super().delta()) - wide


class DoraEmbedding(LoraEmbedding):
    """The same of an embedding's columns: each of the H numbers of all words together has one length."""

    def __init__(self, base: nn.Embedding, *, r: int, scaling: float, dropout: float) -> None:
        super().__init__(base, r=r, scaling=scaling, dropout=dropout)
        self.lora_magnitude_vector = nn.Parameter(lengths(self.weight.T, self.lora_A, self.lora_B, self.scaling))

    def stretch(self) -> torch.Tensor:
        """m / |E^T + gamma B A|, [H]."""
        return self.lora_magnitude_vector / lengths(self.weight.T, self.lora_A, self.lora_B, self.scaling)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids [...] to [..., H]."""
        updated = super().forward(ids)
        return (updated * self.stretch()).to(updated.dtype) if self.active else updated

    def pass_products(self) -> int:
        """Of the lengths."""
        return _length_products(self.weight.T, self.r)

    def tensors(self) -> dict[str, torch.Tensor]:
        """A, B and m by PEFT's names."""
        return super().tensors() | {MAGNITUDE: self.lora_magnitude_vector}

    def delta(self) -> torch.Tensor:
        """E' - E, [V, H]."""
        wide = self.weight.to(self.lora_A.dtype)
        return self.stretch() * (wide + super().delta()) - wide


def wrap(module: nn.Module, *, r: int, scaling: float, dropout: float) -> LoraLayer:
    """Put the fitting layer around a linear or an embedding."""
    if isinstance(module, nn.Embedding):
        return DoraEmbedding(module, r=r, scaling=scaling, dropout=dropout)
    return DoraLinear(module, r=r, scaling=scaling, dropout=dropout)
