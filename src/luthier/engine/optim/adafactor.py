# SPDX-License-Identifier: Apache-2.0
"""Adafactor of transformers with the recipe's learning rate: rows and columns in the place of a second moment.

Reference:
    Shazeer and Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, arXiv 1804.04235.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from luthier.recipe import Optim


PASSING_BYTES = {"cpu": 8, "cuda": 8}  # the gradient's square, and the update
IMPORTED_BYTES = 65 << 20  # transformers' module of it brings PyTorch's compiler


def make(groups: list[dict[str, Any]], optim: Optim) -> torch.optim.Optimizer:
    """Make it."""
    from transformers.optimization import Adafactor

    made: torch.optim.Optimizer = Adafactor(groups, lr=optim.learning_rate, scale_parameter=False, relative_step=False)
    return made


def state_bytes(optim: Optim) -> int:  # noqa: ARG001 - the same for all settings
    """Rows and columns, which are next to nothing."""
    return 0
