# SPDX-License-Identifier: Apache-2.0
"""One thread for models so small that sharing their products costs more than it saves."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

# The built-in model (3 M), 40 steps on two cores: 4.6 s on one thread, 7.4 to 12.5 s on two.
SMALL = 10_000_000


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
