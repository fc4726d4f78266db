# SPDX-License-Identifier: Apache-2.0
"""Runs that share a quantised base: one copy of the codes, and each ends where it would have ended alone."""

from __future__ import annotations

import pytest
import torch
from tests.cohorts import base_of, cohort, together, work_on
from tests.quantized import quantize_

from luthier.engine.loop import fit
from luthier.kernels.quantized import Quantized
from luthier.recipe import load_recipe
from luthier.recipe.sharing import base_of as asked_base

pytestmark = pytest.mark.parity

SHORT = {"train": {"max_steps": 5}}
CONFIGS = [
    SHORT | {"method": {"r": 2}},
    SHORT | {"method": {"r": 4, "use_rslora": True, "lora_dropout": 0.1}},
    SHORT | {"method": {"r": 2, "bias": "all", "modules_to_save": ["o_proj"]}},
]


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("most", [4096, 0], ids=["side by side", "in turn"])
def test_they_end_where_each_would_alone(kind, most, tmp_path):
    base = quantize_(base_of("qwen2", torch.float64), kind)
    members, side = cohort(base, tmp_path / "together", CONFIGS)
    codes = base.model.layers[0].mlp.up_proj.weight.store
    for member in members:
        layer = member.work.trainable.model.model.layers[0].mlp.up_proj.base_layer
        assert isinstance(layer.weight, Quantized)
        assert layer.weight.store is codes
    together(members, side, most=most)
    for seed, config in enumerate(CONFIGS):
        alone = work_on(base, tmp_path / "alone" / str(seed), seed, **config)
        alone.folder.mkdir(parents=True)
        fit(alone)
        got = members[seed].work.trainable.parameters()
        for name, wanted in alone.trainable.parameters().items():
            torch.testing.assert_close(got[name], wanted, atol=1e-9, rtol=0, msg=name)


def test_who_keeps_other_modules_in_sixteen_bits_has_another_base():
    def told(quantization: str, *words: str) -> str:
        bare = {"model": {"model_name_or_path": "embedded"}, "data": {"train": "rows.jsonl"}}
        return asked_base(load_recipe(bare, [f"model.quantization={quantization}", *words]).recipe)

    whole = "method.modules_to_save=[o_proj]"
    assert told("nf4") == told("nf4", "method.r=4") != told("nf4", whole)
    assert told("nf4") != told("int8")
    assert told("none") == told("none", whole)
