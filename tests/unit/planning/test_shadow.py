# SPDX-License-Identifier: Apache-2.0
"""Bytes of a token, counted without weights, are those of the real model."""

from __future__ import annotations

import pytest
import torch
from tests.parity.families import COMMON, PROVEN
from transformers import AutoConfig, AutoModelForCausalLM

from luthier.methods import full, lora
from luthier.models.fuse import fuse
from luthier.models.load import DENSE
from luthier.planning import shadow
from luthier.planning.activations import bytes_per_token, saved_by_formula

DEEP = {"num_hidden_layers": 3, "max_position_embeddings": 128}
LEARNED = {"n_positions": 128, "n_layer": 3}  # GPT-2's words


def config_of(name):
    kind, settings = PROVEN[name]
    settings = {key: value for key, value in settings.items() if key != "layer_types"}
    return AutoConfig.for_model(kind, **(COMMON | settings | DEEP | (LEARNED if "n_positions" in settings else {})))


def real(config, dtype, method, exclude):
    attention = DENSE.get(config.model_type, "luthier")
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    fuse(model)
    if method is full:
        full.apply(model, full.Config())
    else:
        lora.apply(model, lora.Config(r=1, exclude_modules=exclude or None))
    return bytes_per_token(model)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("name", "exclude"),
    [
        ("Llama", ()),
        ("Llama, tied head", ()),
        ("Qwen3", ()),
        ("Phi-3, Phi-4", ()),
        ("GPT-2", ()),
        ("Gemma", ()),  # no fused norm, no fused MLP
        ("Gemma 2", ()),  # soft caps: attention by whole matrices
        ("GPT-J", ()),  # attention of its own
        ("Mixtral", ("experts",)),
    ],
)
def test_as_the_real_model(name, exclude, dtype):
    config = config_of(name)
    before = config.to_dict()
    found = shadow.saved_bytes(config, dtype, exclude)
    assert config.to_dict() == before
    assert found is not None
    assert found == pytest.approx((real(config, dtype, lora, exclude), real(config, dtype, full, exclude)), rel=0.01)


def test_layers_of_several_kinds_count_each():
    config = config_of("DeepSeek-V3")  # the first layer is dense, the others are experts
    found = shadow.saved_bytes(config, torch.float32, ("experts",))
    assert found == pytest.approx(
        (real(config, torch.float32, lora, ("experts",)), real(config, torch.float32, full, ())), rel=0.02
    )


def test_a_large_model_takes_no_memory():
    wide = {"hidden_size": 8192, "intermediate_size": 28_672, "num_hidden_layers": 80, "vocab_size": 128_256}
    config = AutoConfig.for_model("llama", num_attention_heads=64, num_key_value_heads=8, **wide)
    model = shadow.build(config, torch.bfloat16, "CAUSAL_LM")
    shadow._fill(model)
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    assert sum(p.numel() for p in model.parameters()) > 68e9
    assert sum(storages.values()) < 20e6


def test_random_numbers_are_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    shadow.saved_bytes(config_of("Llama"), torch.float32, ())
    assert torch.equal(torch.rand(3), expected)


def test_a_model_that_does_not_run_cut_off_is_told():
    config = config_of("Llama")
    assert shadow.saved_bytes(config, torch.float32, ("no_such_module",)) is None
    assert saved_by_formula(32, 3, 4) == 2 * saved_by_formula(32, 3, 2)
