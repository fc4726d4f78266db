# SPDX-License-Identifier: Apache-2.0
"""Every method on a quantised base: what it is on the same numbers dense, bit for bit, or a refusal in words."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.contract.test_methods import KINDS, _batch, _ready, apply
from tests.quantized import quantize_
from tests.tiny import tiny

from luthier.core.errors import LuthierError, RecipeError
from luthier.models import scored_logprobs
from luthier.models.quantized import dense_, is_quantized

OWN = {"pissa", "olora"}  # they start from float32 numbers, which a 16-bit copy does not have
REFUSED = {"full", "freeze", "galore", "apollo"}
kinds = pytest.mark.parametrize("kind", ["nf4", "int8"])
each = pytest.mark.parametrize("name", sorted(set(KINDS) - REFUSED))


def found(base, name: str):
    model = copy.deepcopy(base)
    torch.manual_seed(0)
    trainable = apply(name, model)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainable.parameters().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw).to(parameter))
    logps = scored_logprobs(trainable.model.train(), _batch())
    grads = torch.autograd.grad(logps.sum(), list(trainable.parameters().values()))
    return trainable, [logps.detach(), *grads]


@kinds
@each
def test_it_is_what_it_is_on_the_dense_base(name, kind):
    dtype = torch.float32 if name in OWN else torch.bfloat16
    base = quantize_(_ready(tiny("llama")).to(dtype), kind)
    ours, got = found(base, name)
    _, wanted = found(dense_(copy.deepcopy(base)), name)
    assert is_quantized(ours.model)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


@kinds
@each
def test_off_it_is_the_base_and_merged_it_is_itself(name, kind):
    base = quantize_(_ready(tiny("llama")), kind)
    with torch.no_grad():
        before = scored_logprobs(base.eval(), _batch())
    trainable, _ = found(base, name)
    trainable.model.eval()
    with torch.no_grad():
        trained = scored_logprobs(trainable.model, _batch())
        with trainable.disabled():
            assert torch.equal(scored_logprobs(trainable.model, _batch()), before)
        try:
            merged = trainable.merge()
        except LuthierError as refused:
            assert "merge" in str(refused) or "virtual tokens" in str(refused)  # noqa: PT017
            return
        torch.testing.assert_close(scored_logprobs(dense_(merged), _batch()), trained, atol=1e-4, rtol=0)


@kinds
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_methods_that_move_the_base_refuse_it(name, kind):
    with pytest.raises(
        RecipeError, match=f"method.name: {name} on a quantised base, whose matrices cannot move; .*lora"
    ):
        apply(name, quantize_(tiny("llama"), kind))


@kinds
def test_a_module_that_trains_whole_gets_numbers_of_its_own(kind):
    from luthier.methods import lora

    base = quantize_(_ready(tiny("llama")), kind)
    codes = base.model.layers[0].mlp.down_proj.weight
    trainable = lora.apply(base, lora.Config(r=2, target_modules=["q_proj"], modules_to_save=["down_proj"]))
    whole = trainable.model.model.layers[0].mlp.down_proj.weight
    assert whole.requires_grad
    assert torch.equal(whole, codes.dense())
