# SPDX-License-Identifier: Apache-2.0
"""Memory of the runs of one process: given back between them, counted where the process cannot tell.

The resident peak of a process is a poor witness for small models: caches that the first run fills (kernels for each
shape) stay, 450 MiB of them beside a model of 6 MiB. So the training state is counted as well.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from luthier.recipe import Optim
    from luthier.run import RunResult

_STATUS = Path("/proc/self/status")


def release() -> None:
    """Free what the last run left: Python's cycles, the C library's free pages, the GPU's cache."""
    import torch

    from luthier.kernels.native import arena

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    arena.release()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # without it glibc keeps freed pages, and the next peak counts them
    except (OSError, AttributeError):
        return  # another C library; peaks then hold what earlier runs kept


@contextmanager
def quick_release() -> Iterator[None]:
    """Inside, collections pass over what is there now: a process with PyTorch has a million objects, 0.25 s a time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def resident_bytes() -> int:
    """Memory that is held now: GPU memory where there is a GPU, else resident memory (0 where it cannot be told)."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.memory_allocated())
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def state_bytes(result: RunResult, optim: Optim) -> int:
    """Bytes that training holds from step to step: weights, float32 masters (if any) and gradients, optimiser state.

    The optimiser's share is the size of its file in the last checkpoint. Activations and caches are not in it.
    """
    from luthier.models.quantized import stored_bytes

    weights = stored_bytes(result.model)
    trained = {id(parameter): parameter for parameter in result.trainable.parameters().values()}.values()
    short = sum(parameter.numel() for parameter in trained if parameter.element_size() < 4)
    masters = 4 * short if optim.weights == "float32" else 0
    sizes = [4 * parameter.numel() for parameter in trained]
    gradients = max(sizes, default=0) if result.trainable.layerwise else sum(sizes)
    files = sorted(
        result.folder.glob("checkpoints/step-*/optimizer.safetensors"), key=lambda file: file.stat().st_mtime
    )
    return weights + masters + gradients + (files[-1].stat().st_size if files else 0)
