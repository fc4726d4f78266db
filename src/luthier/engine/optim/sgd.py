# SPDX-License-Identifier: Apache-2.0
"""SGD of torch, with `momentum`; weight decay is added to the gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from luthier.recipe import Optim


def make(groups: list[dict[str, Any]], optim: Optim) -> torch.optim.Optimizer:
    """Make it."""
    return torch.optim.SGD(groups, lr=optim.learning_rate, momentum=optim.momentum)


def state_bytes(optim: Optim) -> int:
    """The momentum in float32, where there is one."""
    return 4 if optim.momentum else 0
