# SPDX-License-Identifier: Apache-2.0
"""What the optimisers of bitsandbytes share: the package, and states of 8 bits with a scale for each 256 numbers.

Tensors of fewer than 4,096 numbers keep float32 states, as bitsandbytes has it.

Reference:
    Dettmers et al., 8-bit Optimizers via Block-wise Quantization, arXiv 2110.02861.
"""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

from luthier.core.errors import MissingExtra
from luthier.kernels.quantized import IMPORTED_BYTES as IMPORTED_BYTES

if TYPE_CHECKING:
    import torch

    from luthier.recipe import Optim


# On a CPU both moments are made dense and quantised again (measured with a 110 M, scales included); a GPU has kernels.
PASSING_BYTES = {"cpu": 20, "cuda": 0}


def check(optim: Optim) -> None:
    """Find out whether the package is there.

    Raises:
        MissingExtra: It is not.
    """
    package(optim)


def package(optim: Optim) -> Any:
    """bitsandbytes.

    Raises:
        MissingExtra: It is not installed.
    """
    words = logging.getLogger("bitsandbytes")
    level = words.level
    try:
        words.setLevel(logging.ERROR)  # at import it misses a package that only its products of 4 bits would use
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit, at import
            import bitsandbytes
    except ImportError:
        raise MissingExtra(f"optim.optim: {optim.optim}", "bitsandbytes", "bnb") from None
    finally:
        words.setLevel(level)
    return bitsandbytes


def make_adamw(groups: list[dict[str, Any]], optim: Optim, name: str) -> torch.optim.Optimizer:
    """AdamW, by the name of its class."""
    betas = (optim.adam_beta1, 0.999 if optim.adam_beta2 is None else optim.adam_beta2)
    made: torch.optim.Optimizer = getattr(package(optim).optim, name)(
        groups, lr=optim.learning_rate, betas=betas, eps=optim.adam_epsilon
    )
    return made


def make_lion(groups: list[dict[str, Any]], optim: Optim, name: str) -> torch.optim.Optimizer:
    """Lion, by the name of its class."""
    betas = (optim.adam_beta1, 0.99 if optim.adam_beta2 is None else optim.adam_beta2)
    made: torch.optim.Optimizer = getattr(package(optim).optim, name)(groups, lr=optim.learning_rate, betas=betas)
    return made


def adamw_bytes(optim: Optim) -> int:  # noqa: ARG001 - the same for all settings
    """Two moments of a byte; their scales are 1/32 of that."""
    return 2


def lion_bytes(optim: Optim) -> int:  # noqa: ARG001 - the same for all settings
    """One moment of a byte; its scales are 1/64 of that."""
    return 1
