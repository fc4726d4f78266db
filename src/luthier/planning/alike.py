# SPDX-License-Identifier: Apache-2.0
"""Products by a matrix whose rows are all the same cost one row, and numbers that have no place are not drawn.

A shadow's matrices are one row that all rows share (stride 0). Libraries copy such a matrix out and multiply by all of
it: of a 70B 470 MB for each of its widest products, nine tenths of a minute in a plan. The same numbers come from
the one row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Callable

aten = torch.ops.aten
_DRAWS = (aten.uniform_.default, aten.normal_.default)


class AlikeRows(TorchDispatchMode):
    """Inside, x W^T of a W whose rows are all the same is one column that is copied; numbers on `meta` are not drawn.

    It acts below autograd: what is kept for a backward pass is what would be kept without it.
    """

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute the one column, or what is asked."""
        if func in _DRAWS and args[0].is_meta:
            return args[0]
        if func is aten.mm.default and _alike(args[1]):
            return _copied(args[0] @ args[1][:, :1], args[1])
        if func is aten.addmm.default and _alike(args[2]) and not kwargs:
            bias, x, weight = args
            return _copied(x @ weight[:, :1], weight).add_(bias)
        return func(*args, **(kwargs or {}))


def _alike(weight: torch.Tensor) -> bool:
    """Whether all columns of a [K, N] are the same numbers in the same place."""
    return weight.stride(1) == 0 and weight.shape[1] > 1 and not weight.is_meta


def _copied(column: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A [T, 1] as [T, N], each number with a place of its own."""
    return column.expand(-1, weight.shape[1]).contiguous()
