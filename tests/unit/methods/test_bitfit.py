# SPDX-License-Identifier: Apache-2.0
"""BitFit: which biases train, what happens where there are none, and what its folder holds."""

from __future__ import annotations

import json

import pytest
import torch
from tests.reward import shake
from tests.tiny import tiny

from luthier.core.errors import ModelError, RecipeError, UserError
from luthier.export.adapter import fill_adapter, load_adapter
from luthier.methods import bitfit

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS, use_cache=False).logits


def state(model) -> dict:
    return {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "neox"])
def test_the_biases_train_and_nothing_else(family):
    model = tiny(family)
    trained = bitfit.apply(model, bitfit.Config()).parameters()
    assert trained.keys() == {name for name, _ in model.named_parameters() if name.endswith(".bias")}
    assert {p.ndim for p in trained.values()} == {1}


def test_a_model_without_biases_is_refused_and_left_alone():
    model = tiny("llama")
    before = state(model)
    with pytest.raises(RecipeError, match=r"LlamaForCausalLM has no biases.*add_biases: true, or choose `norm`"):
        bitfit.apply(model, bitfit.Config())
    assert state(model) == before
    with pytest.raises(RecipeError, match="every linear of this model has a bias; leave it out"):
        bitfit.apply(tiny("gpt2"), bitfit.Config(add_biases=True))


def test_added_biases_start_at_zero_and_stand_on_every_linear_but_the_head():
    model = tiny("llama")
    before = logits(model)
    trained = bitfit.apply(model, bitfit.Config(add_biases=True)).parameters()
    assert len(trained) == 2 * 7
    assert "lm_head.bias" not in trained
    assert torch.equal(logits(model), before)
    shake(trained.values())
    by_hand = tiny("llama")
    for name, bias in trained.items():
        by_hand.get_submodule(name.removesuffix(".bias")).bias = torch.nn.Parameter(bias.detach().clone())
    assert torch.equal(logits(model), logits(by_hand))
    assert (logits(model) - before).abs().max() > 0.1


def test_a_merged_llama_says_that_it_has_biases(tmp_path):
    model = tiny("llama")
    trainable = bitfit.apply(model, bitfit.Config(add_biases=True))
    shake(trainable.parameters().values())
    trained = logits(model)
    merged = trainable.merge()
    assert (merged.config.attention_bias, merged.config.mlp_bias) == (True, True)
    merged.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype=torch.float32)
    assert (logits(again) - trained).abs().max() <= 1e-6


def test_biases_without_a_place_in_the_architecture_are_not_merged():
    model = tiny("qwen2")  # query, key and value have biases, and no switch gives the rest any
    trainable = bitfit.apply(model, bitfit.Config(add_biases=True))
    with pytest.raises(UserError, match=r"merge: 8 biases that were added, for which Qwen2ForCausalLM has no place"):
        trainable.merge()


def test_its_folder_is_its_own_and_names_what_it_was(tmp_path):
    trainable = bitfit.apply(tiny("gpt2"), bitfit.Config(modules_to_save=["lm_head"]))
    shake(trainable.parameters().values())
    trainable.save(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"luthier_adapter.json", "adapter_model.safetensors"}
    told = json.loads((tmp_path / "luthier_adapter.json").read_text())
    assert (told["method"], told["task_type"]) == ("bitfit", "CAUSAL_LM")
    assert told["config"] == {"add_biases": False, "modules_to_save": ["lm_head"]}
    model = tiny("gpt2")
    load_adapter(model, tmp_path)
    assert torch.equal(logits(model), logits(trainable.model))
    again = bitfit.apply(tiny("gpt2"), bitfit.Config(modules_to_save=["lm_head"]))
    fill_adapter(again, tmp_path)
    assert torch.equal(logits(again.model), logits(trainable.model))


def test_a_folder_that_does_not_fit_says_why(tmp_path):
    bitfit.apply(tiny("gpt2"), bitfit.Config()).save(tmp_path)
    with pytest.raises(ModelError, match=r"settings that do not fit .*LlamaForCausalLM has no biases"):
        load_adapter(tiny("llama"), tmp_path)
    file = tmp_path / "luthier_adapter.json"
    told = json.loads(file.read_text())
    for wrong, said in (
        ({"method": "bitfitt"}, "method 'bitfitt'"),
        ({"config": {"r": 1}}, "settings that do not fit"),
    ):
        file.write_text(json.dumps(told | wrong))
        with pytest.raises(ModelError, match=said):
            load_adapter(tiny("gpt2"), tmp_path)
