# SPDX-License-Identifier: Apache-2.0
"""Low-rank updates as modules: what LoRA and its kin put in the place of a linear.

    y = x W^T + b + gamma (x A^T) B^T        A [r, K], B [N, r]; torch's Linear or GPT-2's Conv1D

Shapes: K inputs, N outputs, r rank.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

from luthier.kernels.lowrank import LowRank, lowrank_linear, multiply_adds
from luthier.kernels.lowrank_many import Part
from luthier.methods._starts import FROM_BASE, from_base

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from luthier.methods._siblings import Siblings
    from luthier.methods._starts import Start


def scaling_of(r: int, lora_alpha: float, use_rslora: bool) -> float:
    """gamma: alpha / r (arXiv 2106.09685), or alpha / sqrt(r) (rank-stabilised, arXiv 2312.03732).

    Example:
        >>> scaling_of(16, 16, False), scaling_of(16, 16, True)
        (1.0, 4.0)
    """
    return lora_alpha / math.sqrt(r) if use_rslora else lora_alpha / r


class Switched(Protocol):
    """A layer around a base, with a switch."""

    active: bool


class LoraLayer(nn.Module):
    """What the kinds share: a frozen base, A, B, gamma, and a switch.

    Args:
        base: The layer as it was.
        scaling: gamma.
        dropout: Share of the low-rank branch's inputs that is dropped in training.

    Attributes:
        active: Off, the layer computes what its base does.
    """

    base_layer: nn.Module
    lora_A: torch.Tensor
    lora_B: torch.Tensor

    def __init__(self, base: nn.Module, scaling: float, dropout: float) -> None:
        super().__init__()
        self.base_layer = base
        self.scaling, self.dropout, self.active = scaling, dropout, True

    def matrix(self, rows: int, columns: int) -> nn.Parameter:
        """Make a parameter of zeros beside the base weight.

        It is float32 also beside a bfloat16 base: updates below 2^-8 of a weight would vanish otherwise.
        """
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        return nn.Parameter(torch.zeros(rows, columns, dtype=wide, device=self.weight.device))

    @property
    def weight(self) -> torch.Tensor:
        """The base's weight; some models read it."""
        return self.base_layer.weight  # type: ignore[return-value]

    @property
    def bias(self) -> torch.Tensor | None:
        """The base's bias."""
        return getattr(self.base_layer, "bias", None)

    def saved(self) -> dict[str, torch.Tensor]:
        """What a file holds."""
        return self.tensors()

    @property
    def r(self) -> int:
        """The rank."""
        return self.lora_A.shape[0]

    def tensors(self) -> dict[str, torch.Tensor]:
        """What trains, by its name in PEFT's files."""
        return {"lora_A.weight": self.lora_A, "lora_B.weight": self.lora_B}

    def pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A and B as they multiply."""
        return self.lora_A, self.lora_B

    def row_products(self, reached: bool) -> int:
        """Multiply-adds of the update for each row of x, forward and backward (`engine.flops`)."""
        a, b = self.pair()
        looked_up = isinstance(self.base_layer, nn.Embedding)
        return (0 if looked_up else multiply_adds(a, reached)) + multiply_adds(b, reached or a.requires_grad)

    def pass_products(self) -> int:
        """Multiply-adds for each pass besides."""
        return 0

    def delta(self) -> torch.Tensor:
        """The update in the base weight's own layout, in A's type (float32); each kind of layer has its own."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its update is")

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Add the update to the base weight, in float32 and rounded once, and return the base.

        The sum becomes a parameter of its own: a matrix that was tied to this one keeps its values.
        """
        weight = self.weight
        update = self.delta()
        merged = (weight.to(update.dtype) + update).to(weight.dtype)
        self.base_layer.weight = nn.Parameter(merged, requires_grad=False)
        return self.base_layer


class LinearUpdate(LoraLayer):
    """A and B beside a frozen linear (also transposed, as GPT-2's Conv1D). A is Kaiming-uniform, B zero."""

    start_A: torch.Tensor | None
    start_B: torch.Tensor | None

    def __init__(self, base: nn.Module, *, r: int, scaling: float, dropout: float) -> None:
        super().__init__(base, scaling, dropout)
        self.transposed = isinstance(base, Conv1D)
        outputs, inputs = self.weight.shape[::-1] if self.transposed else self.weight.shape
        self.in_features, self.out_features = inputs, outputs
        self.register_buffer("start_A", None, persistent=False)
        self.register_buffer("start_B", None, persistent=False)
        self.make(r)

    def make(self, r: int) -> None:
        """Draw A and B."""
        self.lora_A, self.lora_B = self.matrix(r, self.in_features), self.matrix(self.out_features, r)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def begin(self, start: Start) -> None:
        """Put A and B where `init_lora_weights` wants them; True is how they were drawn."""
        if start == "gaussian":
            nn.init.normal_(self.lora_A, std=1 / self.r)
        elif start in FROM_BASE:
            a, b = from_base(self.matrix_NK, self.r, self.scaling, str(start))
            self.start_A, self.start_B = a.to(self.lora_A.dtype), b.to(self.lora_B.dtype)
            with torch.no_grad():
                self.lora_A.copy_(self.start_A)
                self.lora_B.copy_(self.start_B)

    def pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What the update is made of: A and B, or [A; A - A0] and [B - B0, B0] where the start came from the base."""
        if self.start_A is None or self.start_B is None:
            return self.lora_A, self.lora_B
        moved_A, moved_B = self.lora_A - self.start_A, self.lora_B - self.start_B
        return torch.cat([self.lora_A, moved_A]), torch.cat([moved_B, self.start_B], 1)

    @property
    def matrix_NK(self) -> torch.Tensor:
        """The base's matrix, [N, K]."""
        return self.weight.T if self.transposed else self.weight

    def delta(self) -> torch.Tensor:
        """gamma B A, [N, K] (transposed for Conv1D)."""
        a, b = self.pair()
        update = self.scaling * (b @ a)
        return update.T if self.transposed else update


class LoraLinear(LinearUpdate):
    """W + gamma B A in the place of a frozen linear."""

    siblings: Siblings | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., K] to [..., N]."""
        if not self.active:
            return self.base_layer(x)
        if self.siblings is not None and not torch.compiler.is_compiling():
            return self.siblings.output(self, x)
        low = F.dropout(x, self.dropout) if self.training and self.dropout else None
        return lowrank_linear(x, *self.low_rank(), low)

    def saved(self) -> dict[str, torch.Tensor]:
        """What a file holds: plain LoRA for the plain base, of rank 2 r where the start came from the base."""
        return dict(zip(("lora_A.weight", "lora_B.weight"), self.pair(), strict=True))

    def low_rank(self) -> LowRank:
        """What the kernel needs of it."""
        return LowRank(self.matrix_NK, self.bias, *self.pair(), self.scaling)

    def part(self, x: torch.Tensor, tokens: slice) -> Part:
        """The update for some tokens of a batch of several adapters (`models.side_by_side`).

        Args:
            x: The layer's input at these tokens; dropout draws what it draws in :meth:`forward`.
            tokens: Where they stand in the batch.
        """
        if not self.active:
            return Part(start=tokens.start, stop=tokens.stop)
        drops = self.training and self.dropout > 0
        noise = F.dropout(torch.ones_like(x), self.dropout).reshape(-1, x.shape[-1]) if drops else None
        a, b = self.pair()
        return Part(start=tokens.start, stop=tokens.stop, a=a, b=b, scaling=self.scaling, noise=noise)

    def logit_terms(self, hidden: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The head as a sum of products: (h, W) and (gamma h A^T, B)."""
        if not self.active:
            return [(hidden, self.weight)]
        low = F.dropout(hidden, self.dropout) if self.training and self.dropout else hidden
        a, b = self.pair()
        return [(hidden, self.weight), (self.scaling * (low @ a.to(low.dtype).T), b)]


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Set a submodule by its dotted name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


@contextmanager
def switched_off(layers: Iterable[Switched]) -> Iterator[None]:
    """Inside, the layers compute what their base does."""
    active = {layer: layer.active for layer in layers}
    try:
        for layer in active:
            layer.active = False
        yield
    finally:
        for layer, was in active.items():
            layer.active = was
