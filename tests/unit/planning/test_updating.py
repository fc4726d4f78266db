# SPDX-License-Identifier: Apache-2.0
"""What an update makes in passing, as optimisers say it, against what stands in the arena while they move."""

from __future__ import annotations

import pytest
import torch

from luthier.engine.optim import _entry, passing_bytes
from luthier.engine.rounding import ROUNDING, round_at_random
from luthier.kernels.native import arena
from luthier.recipe import Optim

pytestmark = pytest.mark.skipif(not arena.usable(), reason=f"arena: {arena.describe()}")


def highest(work) -> int:
    """Bytes above what stood there before, at the highest point."""
    arena.release()
    before = arena.used_bytes()[0]
    work()
    return arena.used_bytes()[1] - before


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "adafactor", "adamw_8bit", "lion_8bit"])
def test_an_optimiser(name):
    if name.endswith("8bit"):
        pytest.importorskip("bitsandbytes")
    optim = Optim(optim=name)
    with arena.entered():
        parameter = torch.nn.Parameter(torch.ones(1024, 4096))
        group = {"params": [parameter], "weight_decay": 0.0, "lr_scale": 1.0}
        optimizer = _entry(optim).make([group], optim)
        parameter.grad = torch.full_like(parameter, 0.1)
        optimizer.step()  # its state
        made = highest(optimizer.step)
    assert made / parameter.numel() == pytest.approx(passing_bytes(optim, "cpu"), abs=1)


def test_rounding():
    with arena.entered():
        values, generator = torch.ones(1 << 22), torch.Generator().manual_seed(0)
        made = highest(lambda: round_at_random(values, generator))
    assert made / len(values) == pytest.approx(ROUNDING, abs=1)
