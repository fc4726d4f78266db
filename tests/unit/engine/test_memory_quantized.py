# SPDX-License-Identifier: Apache-2.0
"""Memory of a step on a quantised base: what is kept is what a dense base keeps, and one matrix is dense at a time."""

from __future__ import annotations

import copy

import torch
from tests.quantized import quantize_

from luthier.engine.memory import bytes_per_token, dense_bytes, need
from luthier.methods import lora
from luthier.models import load_model
from luthier.models.quantized import dense_, stored_bytes
from luthier.recipe.schema import Model, Optim


def ready(folder):
    return quantize_(load_model(Model(model_name_or_path=str(folder)), torch.bfloat16))


def test_what_a_token_leaves_is_what_it_leaves_on_the_dense_base(tiny_llama):
    base = ready(tiny_llama)
    ours, dense = (lora.apply(model, lora.Config(r=4)) for model in (base, dense_(copy.deepcopy(base))))
    assert bytes_per_token(ours.model) == bytes_per_token(dense.model) > 0
    assert dense_bytes(ours.model) == 2 * max(p.numel() for n, p in base.named_parameters() if "_proj" in n), (
        "the largest matrix: an MLP's"
    )
    assert dense_bytes(dense.model) == 0
    more = need(ours, Optim(), 64, 2).total - need(dense, Optim(), 64, 2).total
    assert more == dense_bytes(ours.model)


def test_bytes_of_a_model_are_those_that_it_keeps(tiny_llama):
    base = ready(tiny_llama)
    linears = sum(p.numel() for n, p in base.named_parameters() if "_proj" in n)
    others = sum(2 * p.numel() for n, p in base.named_parameters() if "_proj" not in n)
    tables = 14 * 4 * 16
    assert stored_bytes(base) == others + linears // 2 + 4 * linears // 64 + tables
    assert stored_bytes(dense_(base)) == others + 2 * linears
