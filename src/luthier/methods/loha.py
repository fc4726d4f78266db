# SPDX-License-Identifier: Apache-2.0
"""LoHa: the update is the product, number by number, of two low-rank matrices; PEFT's LOHA.

    y = x W^T + b + gamma x D^T        D = (w1_a w1_b) o (w2_a w2_b), [N, K];  gamma = alpha / r

D has rank up to r^2 and costs 2 r (N + K) numbers. Where r^2 is at most N and K it is never made: it is the low-rank
product of all pairs of columns with all pairs of rows,

    D[n, k] = sum_ij (w1_a[n, i] w2_a[n, j]) (w1_b[i, k] w2_b[j, k])

which costs a token r^2 (N + K) products instead of N K. Above that D is made, once a pass.

References:
    Hyeon-Woo et al., FedPara, arXiv 2108.06098, equation 2 and proposition 1. Yeh et al., Navigating Text-To-Image
    Customization (LyCORIS), arXiv 2309.14859, section 3.2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from luthier.core.errors import RecipeError
from luthier.methods import _peft
from luthier.methods._lowrank import LoraLinear
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

PEFT_TYPE = "LOHA"
SHARES_BASE = True  # the small matrices stand beside the base


class Config(LycorisKeys):
    """The keys of LoHa, spelt as in PEFT."""


class LohaLinear(LoraLinear):
    """W + gamma (w1_a w1_b) o (w2_a w2_b) in the place of a frozen linear."""

    def __init__(self, base: nn.Module, *, r: int, scaling: float, drops: Drops) -> None:
        super().__init__(base, r=r, scaling=scaling, dropout=0.0)
        self.drops = drops
        self.rank_dropout, self.module_dropout = drops.rows, drops.whole

    def make(self, r: int) -> None:
        """All four are Kaiming-uniform but w2_b, which is zero."""
        self.hada_w1_a, self.hada_w2_a = self.matrix(self.out_features, r), self.matrix(self.out_features, r)
        self.hada_w1_b, self.hada_w2_b = self.matrix(r, self.in_features), self.matrix(r, self.in_features)
        for matrix in (self.hada_w1_a, self.hada_w1_b, self.hada_w2_a):
            nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))

    @property
    def r(self) -> int:
        """The rank of each factor."""
        return self.hada_w1_b.shape[0]

    def tensors(self) -> dict[str, torch.Tensor]:
        """The four matrices by PEFT's names."""
        return {name: getattr(self, name) for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")}

    def saved(self) -> dict[str, torch.Tensor]:
        """The four matrices."""
        return self.tensors()

    def product(self) -> torch.Tensor:
        """D, [N, K]."""
        return (self.hada_w1_a @ self.hada_w1_b) * (self.hada_w2_a @ self.hada_w2_b)

    def pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Two matrices with the product D (rows dropped in training): [R, K] and [N, R], R the least of r^2, N, K."""
        outputs, inputs = self.out_features, self.in_features
        if self.r**2 <= min(outputs, inputs):
            a = (self.hada_w1_b[:, None] * self.hada_w2_b[None]).flatten(0, 1)
            b = (self.hada_w1_a[:, :, None] * self.hada_w2_a[:, None]).flatten(1)
        else:
            d, one = (
                self.product(),
                torch.eye(min(outputs, inputs), dtype=self.hada_w1_a.dtype, device=self.weight.device),
            )
            a, b = (d, one) if outputs <= inputs else (one, d)
        factors = self.drops.factors(outputs, b.device) if self.training else None
        return (a, b) if factors is None else (a, factors.to(b.dtype)[:, None] * b)

    def pass_products(self) -> int:
        """Of D where it is made: two products, and the gradients of their four factors."""
        return 0 if self.r**2 <= min(self.out_features, self.in_features) else 6 * self.r * self.weight.numel()

    def delta(self) -> torch.Tensor:
        """gamma D, [N, K] (transposed for Conv1D)."""
        update = self.scaling * self.product()
        return update.T if self.transposed else update


def apply(model: nn.Module, config: Config) -> Trainable:
    """Freeze the model and put Hadamard products beside its linears.

    Args:
        model: Loaded by :func:`luthier.models.load_model`, or any module; changed in place.
        config: The recipe's section.

    Raises:
        RecipeError: A target or pattern matches nothing, or something that is no linear; a layer is named twice, or r
            is larger than it. The model is then as it was.

    Reference:
        Hyeon-Woo et al., arXiv 2108.06098, equation 2; Yeh et al., arXiv 2309.14859.
    """
    targets, whole = find_linears(model, config)
    sizes = sizes_of(config, targets)
    for name, module in targets.items():
        most = min(shape_of(module))
        if sizes.ranks[name] > most:
            received = f"rank {sizes.ranks[name]} for {name}, which is {' x '.join(map(str, shape_of(module)))}"
            raise RecipeError("method.r", received, f"at most {most} there: a larger one only costs", "lower r")
    return _rewire(model, config, targets, whole, sizes)


def load_peft(model: nn.Module, given: Mapping[str, Any], where: str) -> Trainable:
    """Rewire a model as a PEFT configuration says; the matrices are filled in afterwards.

    Raises:
        ModelError: It has keys that are not known here, or does not fit the model.
    """
    _peft.refuse_keys(given, (*USED, *RESOLVED, *HARMLESS), "LoHa", where)
    targets, whole = load_linears(model, given, where)
    config = config_of(Config, given, USED, where)
    return _rewire(model, config, targets, whole, sizes_of(config, targets, check=False))


def check_agrees(model: nn.Module, given: Mapping[str, Any], where: str) -> None:
    """Compare a folder's scaling with a recipe's.

    Raises:
        RecipeError: It is another one.
    """
    check_scaling(model, given, where, LohaLinear)


def _rewire(
    model: nn.Module, config: Config, targets: dict[str, nn.Module], whole: dict[str, nn.Module], sizes: Sizes
) -> Trainable:
    drops = Drops(rows=config.rank_dropout, whole=config.module_dropout, rescaled=True)

    def made() -> dict[str, LohaLinear]:
        return {
            name: LohaLinear(module, r=sizes.ranks[name], scaling=sizes.scaling(name), drops=drops)
            for name, module in targets.items()
        }

    return train_updates(model, made, lambda: told_of(model, PEFT_TYPE, config, targets, sizes), whole)
