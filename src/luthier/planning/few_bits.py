# SPDX-License-Identifier: Apache-2.0
"""A model whose layers keep random numbers in few bits, as `model.quantization` would make them: it is timed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from luthier.engine.regional import decoder_layers
from luthier.kernels.quantized import Blocks, Quantized, Rows
from luthier.models.targets import is_linear

if TYPE_CHECKING:
    from luthier.kernels.quantized import Store
    from luthier.recipe import Model

_BLOCK, _GROUP = 64, 256  # numbers that share a scale, and scales that share one (arXiv 2305.14314, section 3)


def quantise(model: torch.nn.Module, how: Model) -> None:
    """Replace the matrices of the layers' linears; embeddings, head and norms keep their numbers.

    Args:
        model: Of random numbers; changed in place.
        how: The recipe's section; with `quantization: none` nothing happens.
    """
    if how.quantization == "none":
        return
    draw = torch.Generator().manual_seed(0)
    linears: list[Any] = [m for layer in decoder_layers(model) for m in layer.modules() if is_linear(m)]
    for linear in linears:
        rows, columns = linear.weight.shape
        store = _random(rows, columns, how, draw)
        linear.weight = torch.nn.Parameter(Quantized(store, linear.weight.dtype), requires_grad=False)


def _random(rows: int, columns: int, how: Model, draw: torch.Generator) -> Store:
    def codes(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, generator=draw, dtype=torch.int16).to(torch.uint8)

    if how.quantization == "int8":
        return Rows(
            shape=(rows, columns), codes=codes(rows, columns).view(torch.int8), absmax=torch.full((rows,), 0.06)
        )
    blocks = -(-rows * columns // _BLOCK)
    nested: dict[str, Any] = {"absmax": torch.full((blocks,), 0.06)}
    if how.bnb_4bit_use_double_quant:
        outer = torch.full((-(-blocks // _GROUP),), 0.06)
        nested = {"absmax": codes(blocks), "levels": torch.linspace(-1, 1, 256), "outer": outer, "group": _GROUP}
    table, half = torch.linspace(-1, 1, 16), codes(-(-rows * columns // 2))
    return Blocks(shape=(rows, columns), codes=half, table=table, block=_BLOCK, kind=how.quantization, **nested)
