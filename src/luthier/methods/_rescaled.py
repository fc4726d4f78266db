# SPDX-License-Identifier: Apache-2.0
"""A frozen linear whose inputs or outputs are multiplied by a trained vector: what (IA)^3 makes of a linear.

    outputs     y = l * (x W^T + b)           l [N, 1]
    inputs      y = (l * x) W^T + b           l [1, K]

Shapes: K inputs, N outputs; PEFT keeps l as a column or a row, and so do we.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


class RescaledLinear(nn.Module):
    """torch's Linear or GPT-2's Conv1D, times l; l starts at one.

    Args:
        base: The linear as it was.
        feedforward: Multiply the inputs, not the outputs.

    Attributes:
        active: Off, the layer computes what its base does.
    """

    def __init__(self, base: nn.Module, *, feedforward: bool) -> None:
        super().__init__()
        self.base_layer, self.feedforward, self.active = base, feedforward, True
        self.transposed = isinstance(base, Conv1D)
        outputs, inputs = self.weight.shape[::-1] if self.transposed else self.weight.shape
        # float32 also beside a bfloat16 base: near 1 the step between two bfloat16 numbers is 2^-7.
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        shape = (1, inputs) if feedforward else (outputs, 1)
        self.ia3_l = nn.Parameter(torch.ones(shape, dtype=wide, device=self.weight.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., K] to [..., N]."""
        if not self.active:
            return self.base_layer(x)
        scale = self.ia3_l.flatten()
        if self.feedforward:
            return self.base_layer((x * scale).to(x.dtype))
        y: torch.Tensor = self.base_layer(x)
        return (y * scale).to(y.dtype)

    @property
    def weight(self) -> torch.Tensor:
        """The base's weight; some models read it."""
        return self.base_layer.weight  # type: ignore[return-value]

    @property
    def bias(self) -> torch.Tensor | None:
        """The base's bias."""
        return self.base_layer.bias  # type: ignore[return-value]

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Multiply the base's matrix (and its bias, where outputs are scaled), rounded once, and return the base.

        The products become parameters of their own: a matrix that was tied to this one keeps its values.
        """
        scale = self.ia3_l.T if self.transposed else self.ia3_l
        self.base_layer.weight = nn.Parameter((self.weight * scale).to(self.weight.dtype), requires_grad=False)
        if self.bias is not None and not self.feedforward:
            bias = (self.bias * self.ia3_l.flatten()).to(self.bias.dtype)
            self.base_layer.bias = nn.Parameter(bias, requires_grad=False)
        return self.base_layer
