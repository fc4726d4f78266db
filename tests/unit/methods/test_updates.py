# SPDX-License-Identifier: Apache-2.0
"""Methods of small matrices and vectors beside a bfloat16 base: float32 numbers train, and the base keeps its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.tiny import tiny

from luthier.core import registry
from luthier.core.types import Segment, Tree
from luthier.kernels.forest import plant
from luthier.models import scored_logprobs

KINDS = {
    "lora_fa": ({"r": 4}, 0.02),
    "vera": ({"r": 8}, 0.1),
    "loha": ({"r": 3}, 0.02),
    "lokr": ({"r": 2}, 0.02),
    "llama_adapter": ({}, 0.1),
}


def loss(model) -> torch.Tensor:
    ids = np.arange(5, 25, dtype=np.int32)
    return -scored_logprobs(model, plant([Tree(segments=(Segment(ids=ids, scored=ids > 0),))])).mean()


@pytest.mark.parametrize("name", KINDS)
def test_beside_a_bfloat16_base(name):
    keys, rate = KINDS[name]
    method, model = registry.get("methods", name), tiny("llama").bfloat16()
    model.set_attn_implementation("luthier")
    trainable = method.apply(model, method.Config(**keys))
    own = trainable.parameters()
    assert {p.dtype for p in own.values()} == {torch.float32}
    kept = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    assert {p.dtype for p in kept.values()} == {torch.bfloat16}
    optimizer, losses = torch.optim.AdamW(own.values(), lr=rate), []
    for _ in range(15):
        losses.append(loss(model.train()))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.95 * losses[0]
    assert all(torch.equal(p, kept[n]) for n, p in model.named_parameters() if n in kept)
