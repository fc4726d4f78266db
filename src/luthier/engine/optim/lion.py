# SPDX-License-Identifier: Apache-2.0
"""Lion: the sign of an interpolated momentum; half of AdamW's state, and a learning rate 3 to 10 times as small.

Reference:
    Chen et al., Symbolic Discovery of Optimization Algorithms, arXiv 2302.06675, algorithm 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from luthier.recipe import Optim

BETA2 = 0.99  # the paper's
PASSING_BYTES = {"cpu": 4, "cuda": 4}  # the update


class Lion(torch.optim.Optimizer):
    """Lion.

        c = beta1 m + (1 - beta1) g
        w = w - lr (sign(c) + weight_decay w)
        m = beta2 m + (1 - beta2) g

    Args:
        groups: As torch has them.
        lr: Learning rate.
        betas: beta1 and beta2.

    Reference:
        Chen et al., arXiv 2302.06675, algorithm 2.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient; there is no closure."""
        assert closure is None
        for group in self.param_groups:
            rate, (beta1, beta2) = group["lr"], group["betas"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                momentum = state["exp_avg"]
                update = torch.lerp(gradient, momentum, beta1).sign_()
                parameter.mul_(1 - rate * group["weight_decay"]).add_(update, alpha=-rate)
                momentum.lerp_(gradient, 1 - beta2)


def make(groups: list[dict[str, Any]], optim: Optim) -> torch.optim.Optimizer:
    """Make it."""
    betas = (optim.adam_beta1, BETA2 if optim.adam_beta2 is None else optim.adam_beta2)
    return Lion(groups, optim.learning_rate, betas)


def state_bytes(optim: Optim) -> int:  # noqa: ARG001 - the same for all settings
    """One momentum in float32."""
    return 4
