# SPDX-License-Identifier: Apache-2.0
"""What PyTorch's CPU libraries are told: one thread for the smallest models, and no hoarding of machine code."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

# The built-in model (3 M), 40 steps on two cores: 4.6 s on one thread, 7.4 to 12.5 s on two.
SMALL = 10_000_000

# oneDNN makes 0.9 MB of machine code for each shape of a bfloat16 product, and every step has another number of tokens.
# By default it and PyTorch keep 1,024 each: the benchmark grew by 11 to 17 MB a step, to 560 MB. A step needs 20; with
# 64 of them LoRA on the built-in model took 28 MiB more than with 32, and was no quicker (30 steps, 3 rounds).
KEPT_SHAPES = 32
_KEPT_BY = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def bound_caches() -> None:
    """Keep the machine code of the last shapes only. It counts if no product ran before; what is set already stays."""
    for name in _KEPT_BY:
        os.environ.setdefault(name, str(KEPT_SHAPES))


@contextmanager
def fitting_threads(model: torch.nn.Module) -> Iterator[int]:
    """Inside, a small model on the CPU runs on one thread; OMP_NUM_THREADS goes before it.

    Args:
        model: Its parameters are counted.

    Yields:
        The number of threads.
    """
    before = torch.get_num_threads()
    parameters = list(model.parameters())
    small = sum(p.numel() for p in parameters) < SMALL and parameters[0].device.type == "cpu"
    if small and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
