# SPDX-License-Identifier: Apache-2.0
"""Float32 masters against training in float32 by hand, and the switch for float32 products."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from luthier.engine import precision
from luthier.engine.precision import Masters, pick_dtype, routed_float32

switch = pytest.mark.skipif(
    not hasattr(torch.backends.mkldnn, "matmul") or not torch.backends.mkldnn.is_available(), reason="no oneDNN"
)


def network(dtype):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)).to(dtype)


def batches(steps=6, micro=3):
    draw = torch.Generator().manual_seed(1)
    return [[torch.randn(5, 8, generator=draw) for _ in range(micro)] for _ in range(steps)]


def test_masters_equal_a_float32_optimiser_around_a_bfloat16_model():
    """The reference keeps float32 weights, rounds them into its model, and adds gradients up in float32."""
    model = network(torch.bfloat16)
    masters = Masters(SimpleNamespace(parameters=lambda: dict(model.named_parameters())))
    optimizer = torch.optim.AdamW(masters.twins.values(), lr=1e-3, fused=True)
    reference = network(torch.bfloat16)
    weights = [p.detach().float() for p in reference.parameters()]
    slow = torch.optim.AdamW([torch.nn.Parameter(w) for w in weights], lr=1e-3, fused=True)
    weights = slow.param_groups[0]["params"]
    for step in batches():
        for x in step:
            model(x.bfloat16()).float().pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        masters.publish()

        total = [torch.zeros_like(w) for w in weights]
        for x in step:
            found = torch.autograd.grad(reference(x.bfloat16()).float().pow(2).mean(), list(reference.parameters()))
            for sum_, gradient in zip(total, found, strict=True):
                sum_ += gradient.float()
        for w, sum_ in zip(weights, total, strict=True):
            w.grad = sum_
        slow.step()
        with torch.no_grad():
            for p, w in zip(reference.parameters(), weights, strict=True):
                p.copy_(w.bfloat16())
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), reference.parameters(), strict=True))
        assert all(torch.equal(a, b) for a, b in zip(masters.twins.values(), weights, strict=True))
        assert all(p.grad is None for p in model.parameters()), "no second copy of the gradient stays"


def test_small_updates_are_not_lost():
    """A thousand updates of 2^-12: each is below half an ulp of bfloat16 at 1, all of them together are 0.24."""
    model = torch.nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    torch.nn.init.ones_(model.weight)
    masters = Masters(SimpleNamespace(parameters=lambda: dict(model.named_parameters())))
    optimizer = torch.optim.SGD(masters.twins.values(), lr=2**-12)
    for _ in range(1000):
        model(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        masters.publish()
    assert model.weight.item() == pytest.approx(1 - 1000 / 4096, abs=2**-8)


def test_float32_parameters_stand_for_themselves():
    model = network(torch.float32)
    masters = Masters(SimpleNamespace(parameters=lambda: dict(model.named_parameters())))
    assert all(masters.twins[name] is parameter for name, parameter in model.named_parameters())


def test_after_release_a_model_keeps_its_gradients():
    model = network(torch.bfloat16)
    masters = Masters(SimpleNamespace(parameters=lambda: dict(model.named_parameters())))
    masters.release()
    model(torch.ones(1, 8, dtype=torch.bfloat16)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(twin.grad is None for twin in masters.twins.values())


@switch
@pytest.mark.parametrize("before", ["none", "ieee"])
def test_the_switch_goes_back(monkeypatch, before):
    matmul = torch.backends.mkldnn.matmul
    original = matmul.fp32_precision
    try:
        matmul.fp32_precision = before
        started = matmul.fp32_precision
        with routed_float32() as on:
            assert matmul.fp32_precision == ("bf16" if on else started)
        assert matmul.fp32_precision == started

        def stop():
            with routed_float32():
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stop()
        assert matmul.fp32_precision == started
    finally:
        matmul.fp32_precision = original


@switch
def test_a_machine_that_rounds_products_is_left_alone(monkeypatch):
    """AMX machines really use bfloat16 behind the switch: 3e-3 instead of 2e-7."""
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    monkeypatch.setattr(precision, "product_error", lambda: 3e-3)
    with routed_float32() as on:
        assert not on
        assert matmul.fp32_precision == before


def test_not_wanted():
    with routed_float32(False) as on:
        assert not on


def test_the_probe_tells_bfloat16_from_float32(monkeypatch):
    assert precision.product_error() < 1e-6
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor,
        "__matmul__",
        lambda a, b: product(a.bfloat16(), b.bfloat16()).float() if a.dtype == torch.float32 else product(a, b),
    )
    assert precision.product_error() > 1e-3


def test_dtypes():
    assert pick_dtype("float32") == torch.float32
    assert pick_dtype("bfloat16") == torch.bfloat16
    assert pick_dtype("auto") in (torch.float32, torch.bfloat16)


@switch
def test_the_first_product_of_a_process_finds_its_caches_bounded(monkeypatch):
    """oneDNN reads the bound once: where the check of the route ran before it, a float32 run kept 1,024 shapes."""
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    seen = []
    monkeypatch.setattr(precision, "product_error", lambda: seen.append(all(name in os.environ for name in names)) or 1)
    with routed_float32():
        pass
    assert seen == [True]
