# SPDX-License-Identifier: Apache-2.0
"""Linears that read the same input compute together, and nobody can tell but by the time."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import nn

from luthier.methods import lora
from luthier.methods._lowrank import LoraLinear
from luthier.methods._siblings import Siblings
from luthier.models.threads import KEPT_SHAPES, bound_caches


class Block(nn.Module):
    """An attention's three projections, with a word on what the third one reads."""

    def __init__(self, reads_other: bool = False) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4)
        self.reads_other = reads_other

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k = self.q_proj(x), self.k_proj(x)
        return torch.cat([q, k, self.v_proj(x * 2 if self.reads_other else x)], -1)


def _made(block: Block, **keys: Any) -> tuple[nn.Module, list[LoraLinear]]:
    torch.manual_seed(0)
    trainable = lora.apply(block.double(), lora.Config(r=2, target_modules=("q_proj", "k_proj", "v_proj"), **keys))
    layers = [layer for layer in block.modules() if isinstance(layer, LoraLinear)]
    for layer in layers:
        nn.init.normal_(layer.lora_B)
    return trainable.model, layers


def _results(block: nn.Module, layers: list[LoraLinear], x: torch.Tensor) -> list[torch.Tensor]:
    out = block(x)
    parameters = [p for layer in layers for p in (layer.lora_A, layer.lora_B)]
    return [out, *torch.autograd.grad(out.square().sum(), [x, *parameters])]


@pytest.mark.parametrize("reads_other", [False, True])
def test_together_as_alone(reads_other: bool) -> None:
    block, layers = _made(Block(reads_other))
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    siblings = layers[0].siblings
    assert siblings is not None
    assert all(layer.siblings is siblings for layer in layers)
    together = [_results(block, layers, x) for _ in range(2)]
    assert (layers[0].siblings is None) == reads_other  # they parted ways
    assert not siblings.waiting
    assert siblings.input is None
    for layer in layers:
        layer.siblings = None
    alone = _results(block, layers, x)
    for found in together:
        for one, other in zip(found, alone, strict=True):
            torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


def test_an_input_that_is_read_again_is_computed_again() -> None:
    block, layers = _made(Block())
    x = torch.randn(3, 8, dtype=torch.float64)
    first = block(x)
    with torch.no_grad():
        layers[1].lora_B.mul_(2)
    assert not torch.equal(first, block(x))


def test_with_one_switched_off_each_goes_its_own_way() -> None:
    block, layers = _made(Block())
    x = torch.randn(3, 8, dtype=torch.float64)
    layers[1].active = False
    assert torch.equal(block(x)[:, 8:12], layers[1].base_layer(x))


def test_who_computes_together() -> None:
    assert all(layer.siblings is None for layer in _made(Block(), lora_dropout=0.1)[1])  # each drops other inputs
    torch.manual_seed(0)
    part = Block()
    lora.apply(part, lora.Config(r=2, target_modules=("q_proj", "v_proj")))
    assert isinstance(part.q_proj.siblings, Siblings)
    assert part.q_proj.siblings is part.v_proj.siblings


def test_the_caches_of_machine_code_are_bounded_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    bound_caches()
    assert os.environ["LRU_CACHE_CAPACITY"] == str(KEPT_SHAPES)
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
