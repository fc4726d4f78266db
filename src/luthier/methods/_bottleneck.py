# SPDX-License-Identifier: Apache-2.0
"""A bottleneck beside a frozen module: down to b numbers, a non-linearity, up again, added to the module's output.

    in a row       y = f(x);    y + s up(phi(down(y)))
    in parallel    y = f(x);    y + s up(phi(down(x)))

`up` starts at zero, so the module starts as its base (as in He et al., arXiv 2110.04366; Houlsby et al. start near it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

NonLinearity = Literal["relu", "gelu", "silu", "tanh", "leaky_relu", "elu"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a bottleneck computes.

    Attributes:
        size: Its width b.
        non_linearity: phi, by torch's name.
        scaling: s.
        dropout: Share of the inputs of `down` that is dropped in training.
        parallel: Whether it reads the module's input instead of its output.
    """

    size: int
    non_linearity: NonLinearity
    scaling: float
    dropout: float
    parallel: bool


class WideLinear(nn.Linear):
    """A linear with float32 weights that runs in the numbers of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., K] to [..., N]."""
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class Bottleneck(nn.Module):
    """A module and its bottleneck.

    Args:
        base: The module as it was; it takes one tensor, and gives one or a tuple that begins with one.
        hidden: Width of what it gives (and, in parallel, takes).
        shape: What the bottleneck computes.

    Attributes:
        active: Off, the module computes what its base does.
    """

    def __init__(self, base: nn.Module, hidden: int, shape: Shape) -> None:
        super().__init__()
        self.base_layer, self.shape, self.active = base, shape, True
        self.dropout = shape.dropout
        weight = next(base.parameters())
        # float32 also beside a bfloat16 base: updates below 2^-8 of a weight would vanish otherwise.
        how: Any = {"dtype": torch.promote_types(weight.dtype, torch.float32), "device": weight.device}
        self.adapter_down, self.adapter_up = (
            WideLinear(hidden, shape.size, **how),
            WideLinear(shape.size, hidden, **how),
        )
        nn.init.kaiming_uniform_(self.adapter_down.weight, a=math.sqrt(5))
        for zero in (self.adapter_down.bias, self.adapter_up.weight, self.adapter_up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: torch.Tensor) -> Any:
        """[..., H] to what the base gives."""
        given = self.base_layer(x)
        if not self.active:
            return given
        y, rest = (given[0], given[1:]) if isinstance(given, tuple) else (given, None)
        low = F.dropout(x if self.shape.parallel else y, self.dropout, self.training)
        low = getattr(F, self.shape.non_linearity)(self.adapter_down(low))
        y = y + self.shape.scaling * self.adapter_up(low)
        return y if rest is None else (y, *rest)

    @property
    def weight(self) -> torch.Tensor:
        """The base's weight; some models read it."""
        return self.base_layer.weight  # type: ignore[return-value]
