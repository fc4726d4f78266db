# SPDX-License-Identifier: Apache-2.0
"""Memory of a step on a quantised base, and of one whose optimiser sees small gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.quantized import quantize_

from luthier.engine.optim import moved_numbers, optimizer_bytes
from luthier.kernels.forest import plant
from luthier.methods import galore, lora
from luthier.models import load_model, outputs
from luthier.models.fuse import fuse
from luthier.models.quantized import dense_, stored_bytes
from luthier.planning.activations import _tree
from luthier.planning.counts import count
from luthier.planning.need import need_of
from luthier.planning.shadow import dense_shadow
from luthier.planning.work import Work
from luthier.recipe.schema import Model, Optim

WORK = Work(
    tokens=64, scored=64, mean=64, micro_batches=1, steps=4, all_tokens=256, all_scored=256, all_pairs=0, passes=4
)


def ready(folder):
    return quantize_(load_model(Model(model_name_or_path=str(folder)), torch.bfloat16))


def test_what_a_token_leaves_is_what_it_leaves_on_the_dense_base(tiny_llama):
    base = ready(tiny_llama)
    ours, dense = (count(lora.apply(model, lora.Config(r=4))) for model in (base, dense_(copy.deepcopy(base))))
    assert ours.kept.per_token == dense.kept.per_token > 0
    assert ours.dense == 2 * max(p.numel() for n, p in base.named_parameters() if "_proj" in n), "an MLP's matrix"
    assert dense.dense == 0
    more = [need_of(counts, WORK, Optim(), "cpu").passing for counts in (ours, dense)]
    assert more[0] - more[1] == ours.dense


def test_bytes_of_a_model_are_those_that_it_keeps(tiny_llama):
    base = ready(tiny_llama)
    linears = sum(p.numel() for n, p in base.named_parameters() if "_proj" in n)
    others = sum(2 * p.numel() for n, p in base.named_parameters() if "_proj" not in n)
    tables = 14 * 4 * 16
    assert stored_bytes(base) == others + linears // 2 + 4 * linears // 64 + tables
    assert stored_bytes(dense_(base)) == others + 2 * linears


def test_small_gradients_spare_what_the_optimiser_does_not_see(tiny_llama):
    model = load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32)
    trainable = galore.apply(model, galore.Config(rank=4))
    needed = need_of(count(trainable), WORK, Optim(), "cpu")
    assert needed.optimizer == optimizer_bytes(Optim(), trainable) < 8 * trainable.num_trainable
    assert needed.gradients == 4 * (trainable.num_trainable + 2 * moved_numbers(trainable))


@pytest.mark.parametrize(("kind", "double"), [("nf4", False), ("nf4", True), ("fp4", False), ("int8", False)])
def test_a_stand_in_keeps_as_many_bytes_as_the_real_one(tiny_llama, kind, double):
    """Random numbers in few bits, against bitsandbytes' own; and its layers run, both ways."""
    how = Model(model_name_or_path=str(tiny_llama), quantization=kind, bnb_4bit_use_double_quant=double)
    real = load_model(how, torch.bfloat16)
    fuse(real)
    trainable = dense_shadow(real.config, torch.bfloat16, "CAUSAL_LM", {"name": "lora"}, how, room=1 << 30)
    counts, wanted = count(trainable), count(lora.apply(real, lora.Config()))
    assert counts.weights == wanted.weights
    assert (counts.dense, counts.kept, counts.trained) == (wanted.dense, wanted.kept, wanted.trained)
    found = outputs(trainable.model, plant([_tree(8, 4, 64, half=False)]))
    assert bool(found.isfinite().all())
    grads = torch.autograd.grad(found.sum(), list(trainable.parameters().values()))
    assert any(bool(grad.any()) for grad in grads)
