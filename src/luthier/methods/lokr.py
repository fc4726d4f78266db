# SPDX-License-Identifier: Apache-2.0
"""LoKr: the update is a Kronecker product of a small matrix and a larger one, whole or low-rank; PEFT's LOKR.

    y = x W^T + b + gamma x D^T        D = w1 (x) w2, [N, K];  w1 [l, m], w2 [k, n];  N = l k, K = m n

w1 and w2 are whole matrices, or products w1_a w1_b and w2_a w2_b of rank r where that has fewer numbers: w2 by default,
w1 with `decompose_both`. D is never made in training: x as [m, n] is multiplied by w2 and w1 from its two sides.

References:
    Yeh et al., Navigating Text-To-Image Customization (LyCORIS), arXiv 2309.14859, section 3.3. Edalati et al., KronA,
    arXiv 2212.10650, equation 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import field_validator
from torch import nn

from luthier.kernels.lowrank import multiply_adds
from luthier.methods import _peft
from luthier.methods._lowrank import LinearUpdate
from luthier.methods._lycoris import (
    HARMLESS,
    RESOLVED,
    USED,
    Drops,
    LycorisKeys,
    Sizes,
    check_scaling,
    shape_of,
    sizes_of,
    told_of,
)
from luthier.methods._updates import config_of, find_linears, load_linears, train_updates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.core.trainable import Trainable

PEFT_TYPE = "LOKR"
SHARES_BASE = True  # the small matrices stand beside the base
_OWN = ("decompose_both", "decompose_factor", "rank_dropout_scale")


class Config(LycorisKeys):
    """The keys of LoKr, spelt as in PEFT."""

    decompose_both: bool = False
    """Let w1 be a product of rank r too, where that has fewer numbers."""
    decompose_factor: int = -1
    """The smaller size of each pair of factors, or the divisor next below it; -1: as near to the root as there is."""
    rank_dropout_scale: bool = False
    """Multiply the outputs that rank_dropout leaves, so that their mean stays."""
    init_weights: Literal[True, "lycoris"] = True
    """What starts at zero: true (w1), or `lycoris` (w2)."""

    @field_validator("decompose_factor")
    @classmethod
    def _factor(cls, value: int) -> int:
        if value == 0 or value < -1:
            raise ValueError("-1, or 1 and more")
        return value


@dataclass(frozen=True, kw_only=True)
class Factors:
    """How a layer's sizes are factored: N = l k outputs, K = m n inputs, and which of w1, w2 are products.

    Attributes:
        outputs: (l, k).
        inputs: (m, n).
        whole1: Whether w1 is one matrix.
        whole2: Whether w2 is.
    """

    outputs: tuple[int, int]
    inputs: tuple[int, int]
    whole1: bool
    whole2: bool


def factored(size: int, factor: int = -1) -> tuple[int, int]:
    """Two factors of a size, the smaller one first, as PEFT (and LyCORIS) finds them.

    Args:
        size: 1 or more.
        factor: The smaller factor wanted; where it does not divide, the largest divisor below it that brings the two
            nearer to each other. -1: as near as can be.

    Example:
        >>> factored(128), factored(128, 4), factored(127), factored(96, 7)
        ((8, 16), (4, 32), (1, 127), (6, 16))
    """
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    most = size if factor == -1 else factor
    first, second = 1, size
    while first < second:
        larger = next(m for m in range(first + 1, size + 1) if size % m == 0)
        if larger + size // larger > first + second or larger > most:
            break
        first, second = larger, size // larger
    return min(first, second), max(first, second)


def factors_of(base: nn.Module, r: int, config: Config) -> Factors:
    """How one linear is factored."""
    rows, columns = shape_of(base)
    outputs, inputs = factored(rows, config.decompose_factor), factored(columns, config.decompose_factor)
    return Factors(
        outputs=outputs,
        inputs=inputs,
        whole1=not (config.decompose_both and r < max(outputs[0], inputs[0]) / 2),
        whole2=r >= max(outputs[1], inputs[1]) / 2,
    )


class LokrLinear(LinearUpdate):
    """W + gamma w1 (x) w2 in the place of a frozen linear."""

    lokr_w1: nn.Parameter
    lokr_w1_a: nn.Parameter
    lokr_w1_b: nn.Parameter
    lokr_w2: nn.Parameter
    lokr_w2_a: nn.Parameter
    lokr_w2_b: nn.Parameter

    def __init__(self, base: nn.Module, factors: Factors, *, r: int, scaling: float, drops: Drops) -> None:
        super().__init__(base, r=r, scaling=scaling, dropout=0.0)
        self.factors, self.drops = factors, drops
        self.rank_dropout, self.module_dropout = drops.rows, drops.whole
        (l, k), (m, n) = factors.outputs, factors.inputs  # noqa: E741 - the paper's and the docstring's letters
        sizes = {"w1": [(l, m)] if factors.whole1 else [(l, r), (r, m)]}
        sizes["w2"] = [(k, n)] if factors.whole2 else [(k, r), (r, n)]
        for name, shapes in sizes.items():
            for ending, shape in zip(("",) if len(shapes) == 1 else ("_a", "_b"), shapes, strict=True):
                setattr(self, f"lokr_{name}{ending}", self.matrix(*shape))

    def make(self, r: int) -> None:
        """Nothing yet: the sizes are told afterwards."""

    def begin(self, start: Any) -> None:
        """Kaiming-uniform, and zero: w1 (or w1_a), or in LyCORIS's way w2 (or w2_b)."""
        own = self.tensors()
        zero = ("lokr_w2", "lokr_w2_b") if start == "lycoris" else ("lokr_w1", "lokr_w1_a")
        for name, matrix in own.items():
            if name not in zero:
                nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))

    def tensors(self) -> dict[str, torch.Tensor]:
        """The matrices by PEFT's names."""
        return dict(self.named_parameters(recurse=False))

    def saved(self) -> dict[str, torch.Tensor]:
        """The same."""
        return self.tensors()

    def w1(self) -> torch.Tensor:
        """[l, m]."""
        return self.lokr_w1 if self.factors.whole1 else self.lokr_w1_a @ self.lokr_w1_b

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., K] to [..., N]."""
        y: torch.Tensor = self.base_layer(x)
        return (y + self.update(x)).to(y.dtype) if self.active else y

    def update(self, x: torch.Tensor) -> torch.Tensor:
        """gamma x D^T, [..., N], with outputs dropped in training."""
        z = x.unflatten(-1, self.factors.inputs)  # [..., m, n]
        for matrix in self._inner():
            z = F.linear(z, matrix.to(x.dtype))  # at last [..., m, k]
        z = F.linear(z.transpose(-1, -2), self.w1().to(x.dtype))  # [..., k, l]
        y = self.scaling * z.transpose(-1, -2).flatten(-2)
        factors = self.drops.factors(self.out_features, x.device) if self.training else None
        return y if factors is None else y * factors.to(y.dtype)

    def _inner(self) -> tuple[torch.Tensor, ...]:
        """w2, or w2_b and w2_a in the order in which they multiply x."""
        if self.factors.whole2:
            return (self.lokr_w2,)
        return self.lokr_w2_b, self.lokr_w2_a

    def logit_terms(self, hidden: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The head as a sum of products: (h, W), and (h, gamma D) with D made."""
        if not self.active:
            return [(hidden, self.weight)]
        update = self.scaling * self.product()
        factors = self.drops.factors(self.out_features, hidden.device) if self.training else None
        return [(hidden, self.weight), (hidden, update if factors is None else factors.to(update)[:, None] * update)]

    def row_products(self, reached: bool) -> int:
        """Of x with w2, for each of m rows, and with w1, for each of k."""
        inner, products = self._inner(), 0
        for matrix in inner:
            products += self.factors.inputs[0] * multiply_adds(matrix, reached)
            reached = True
        return products + self.factors.outputs[1] * multiply_adds(self.w1(), reached)

    def pass_products(self) -> int:
        """Of w1, where it is a product."""
        return 0 if self.factors.whole1 else 3 * self.w1().numel() * self.lokr_w1_a.shape[1]

    def product(self) -> torch.Tensor:
        """D, [N, K]."""
        w2 = self._inner()[0] if self.factors.whole2 else self.lokr_w2_a @ self.lokr_w2_b
        return torch.kron(self.w1(), w2)

    def delta(self) -> torch.Tensor:
        """gamma D, [N, K] (transposed for Conv1D)."""
        update = self.scaling * self.product()
        return update.T if self.transposed else update


def apply(model: nn.Module, config: Config) -> Trainable:
    """Freeze the model and put Kronecker products beside its linears.

    Args:
        model: Loaded by :func:`luthier.models.load_model`, or any module; changed in place.
        config: The recipe's section.

    Raises:
        RecipeError: A target or pattern matches nothing, or something that is no linear; or a layer is named twice.
            The model is then as it was.

    Reference:
        Yeh et al., arXiv 2309.14859, section 3.3.
    """
    targets, whole = find_linears(model, config)
    return _rewire(model, config, targets, whole, sizes_of(config, targets))


def load_peft(model: nn.Module, given: Mapping[str, Any], where: str) -> Trainable:
    """Rewire a model as a PEFT configuration says; the matrices are filled in afterwards.

    Raises:
        ModelError: It has keys that are not known here, or does not fit the model.
    """
    _peft.refuse_keys(given, (*USED, *_OWN, *RESOLVED, *HARMLESS), "LoKr", where)
    targets, whole = load_linears(model, given, where)
    config = config_of(Config, given, (*USED, *_OWN), where)
    return _rewire(model, config, targets, whole, sizes_of(config, targets, check=False))


def check_agrees(model: nn.Module, given: Mapping[str, Any], where: str) -> None:
    """Compare a folder's scaling with a recipe's; how matrices are factored, their shapes tell.

    Raises:
        RecipeError: It is another one.
    """
    check_scaling(model, given, where, LokrLinear)


def _rewire(
    model: nn.Module, config: Config, targets: dict[str, nn.Module], whole: dict[str, nn.Module], sizes: Sizes
) -> Trainable:
    drops = Drops(rows=config.rank_dropout, whole=config.module_dropout, rescaled=config.rank_dropout_scale)

    def made() -> dict[str, LokrLinear]:
        layers = {}
        for name, module in targets.items():
            r = sizes.ranks[name]
            factors = factors_of(module, r, config)
            layers[name] = LokrLinear(module, factors, r=r, scaling=sizes.scaling(name), drops=drops)
            layers[name].begin(config.init_weights)
        return layers

    def told() -> dict[str, Any]:
        own = {key: getattr(config, key) for key in _OWN}
        return {**told_of(model, PEFT_TYPE, config, targets, sizes), **own}

    return train_updates(model, made, told, whole)
