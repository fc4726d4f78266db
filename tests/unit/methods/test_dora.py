# SPDX-License-Identifier: Apache-2.0
"""DoRA's lengths against the matrix written out; dropout and merged weights against PEFT; what is refused."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tests.reward import shake
from tests.tiny import tiny
from torch import nn

from luthier.core.errors import ModelError, RecipeError
from luthier.export.adapter import fill_adapter, load_adapter
from luthier.methods import lora
from luthier.methods._dora import DoraLinear, lengths

pytestmark = pytest.mark.filterwarnings("ignore")
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 30.0])
def test_lengths_are_those_of_the_sum_written_out(size):
    w, a, b = torch.randn(7, 12), torch.randn(3, 12), size * torch.randn(7, 3)
    w[0] = 0.0
    wanted = (w.double() + 1.7 * b.double() @ a.double()).norm(dim=1)
    torch.testing.assert_close(lengths(w, a, b, 1.7).double(), wanted, atol=2e-6, rtol=2e-6)


def test_an_update_that_takes_a_row_back_leaves_no_nan():
    w = torch.randn(4, 6)
    assert torch.isfinite(lengths(w, w.clone(), -torch.eye(4), 1.0)).all()


def test_a_row_of_zeros_stays_one():
    base = nn.Linear(6, 4, bias=False)
    base.weight.data[1] = 0.0
    layer = DoraLinear(base, r=2, scaling=1.0, dropout=0.0)
    y = layer(torch.randn(3, 6))
    assert torch.isfinite(y).all()
    assert (y[:, 1] == 0).all()


def test_dropout_drops_what_peft_drops():
    base = nn.Linear(12, 8)
    holder = nn.ModuleDict({"one": nn.Linear(12, 8)})
    holder["one"].load_state_dict(base.state_dict())
    theirs = get_peft_model(
        holder, LoraConfig(r=3, lora_alpha=5, lora_dropout=0.4, use_dora=True, target_modules=["one"])
    )
    layer = DoraLinear(base, r=3, scaling=5 / 3, dropout=0.4).train()
    other = theirs.base_model.model["one"].train()
    with torch.no_grad():
        layer.lora_B.normal_()
        layer.lora_magnitude_vector.mul_(1.3)
        other.lora_A["default"].weight.copy_(layer.lora_A)
        other.lora_B["default"].weight.copy_(layer.lora_B)
        other.lora_magnitude_vector["default"].weight.copy_(layer.lora_magnitude_vector)
    x, found = torch.randn(5, 12), []
    for one in (layer, other):
        torch.manual_seed(3)
        found.append(one(x))
        found[-1].square().sum().backward()
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
    grads = [
        (layer.lora_A.grad, other.lora_A["default"].weight.grad),
        (layer.lora_B.grad, other.lora_B["default"].weight.grad),
        (layer.lora_magnitude_vector.grad, other.lora_magnitude_vector["default"].weight.grad),
    ]
    for ours, wanted in grads:
        torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_merged_weights_are_pefts(family, tmp_path):
    trainable = lora.apply(tiny(family), lora.Config(r=4, use_dora=True))
    shake(trainable.parameters().values())
    trainable.save(tmp_path)
    theirs = dict(PeftModel.from_pretrained(tiny(family), tmp_path).merge_and_unload().named_parameters())
    for name, parameter in trainable.merge().named_parameters():
        assert (parameter - theirs[name]).abs().max() <= 2e-6, name


def test_beside_a_bfloat16_base():
    model = tiny("llama").bfloat16()
    before = logits(model)
    trainable = lora.apply(model, lora.Config(r=4, use_dora=True))
    assert {p.dtype for p in trainable.parameters().values()} == {torch.float32}
    assert (logits(model) - before).abs().max() <= 2 * torch.finfo(torch.bfloat16).eps * before.abs().max()
    assert logits(model).dtype == torch.bfloat16


def test_a_tied_update_has_no_two_lengths(tmp_path):
    keys = {"r": 2, "target_modules": ["embed_tokens"], "ensure_weight_tying": True}
    with pytest.raises(RecipeError, match="an update that two ends share has two lengths"):
        lora.apply(tiny("tied"), lora.Config(**keys, use_dora=True))
    config = LoraConfig(**keys, use_dora=True, task_type="CAUSAL_LM")
    get_peft_model(tiny("tied"), config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="use_dora with ensure_weight_tying"):
        load_adapter(tiny("tied"), tmp_path)


@pytest.mark.parametrize("use_dora", [True, False])
def test_a_recipe_and_a_folder_must_agree(use_dora, tmp_path):
    lora.apply(tiny("llama"), lora.Config(r=4, use_dora=use_dora)).save(tmp_path)
    other = lora.apply(tiny("llama"), lora.Config(r=4, use_dora=not use_dora))
    with pytest.raises(RecipeError, match=f"write use_dora: {str(use_dora).lower()}"):
        fill_adapter(other, tmp_path)
