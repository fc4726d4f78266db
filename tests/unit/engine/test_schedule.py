# SPDX-License-Identifier: Apache-2.0
"""The learning rate of every step, against transformers' schedulers."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from transformers import get_scheduler

from luthier.engine.schedule import learning_rate, warmup_steps
from luthier.recipe import Optim

KINDS = get_args(Optim.model_fields["lr_scheduler_type"].annotation)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("total", [1, 2, 7, 100])
@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_every_step(kind, total, warmup):
    warmup = min(warmup, total)
    words = {"warmup_steps": warmup} if warmup else {"warmup_ratio": 0.0}
    optim = Optim(lr_scheduler_type=kind, learning_rate=3e-4, **words)
    reference = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    scheduler = get_scheduler(kind, reference, num_warmup_steps=warmup, num_training_steps=total)
    for step in range(total):
        assert learning_rate(optim, step, total) == pytest.approx(reference.param_groups[0]["lr"], rel=1e-12, abs=1e-15)
        reference.step()
        scheduler.step()


def test_ratio():
    assert warmup_steps(Optim(warmup_ratio=0.03), 100) == 3
    assert warmup_steps(Optim(warmup_ratio=0.03), 10) == 1  # rounded up, as transformers does
    assert warmup_steps(Optim(warmup_ratio=0.5, warmup_steps=2), 10) == 2
    assert warmup_steps(Optim(lr_scheduler_type="constant"), 100) == 0
