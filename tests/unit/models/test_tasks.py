# SPDX-License-Identifier: Apache-2.0
"""A language model becomes a reward model: the head alone may be missing, and nothing is done in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.reward import base, reward
from tests.tiny import tiny
from transformers import AutoTokenizer

from luthier.core.errors import ModelError
from luthier.models import load_model
from luthier.models.anatomy import dissect
from luthier.models.save import save_model, save_words
from luthier.recipe import Model


def test_a_new_head_is_drawn_from_the_seed_and_said_aloud(tmp_path, caplog):
    folder, said = base(tmp_path / "llama"), []
    torch.manual_seed(1)
    first = reward(folder, seed=5, say=said.append)
    torch.manual_seed(2)
    assert torch.equal(first.score.weight, reward(folder, seed=5).score.weight)
    assert not torch.equal(first.score.weight, reward(folder, seed=6).score.weight)
    assert first.score.weight.shape == (1, 32)
    assert 0.5 < float(first.score.weight.detach().std()) / first.config.initializer_range < 1.5
    assert any("a head of values (1, 32) is drawn from seed 5" in line for line in said)
    assert "LOAD REPORT" not in caplog.text, "told twice, once in transformers' words"
    assert torch.equal(first.model.embed_tokens.weight, tiny("llama").model.embed_tokens.weight)


def test_the_head_is_rounded_not_drawn_anew_in_bfloat16(tmp_path):
    folder = base(tmp_path / "llama")
    short = load_model(Model(model_name_or_path=str(folder)), torch.bfloat16, task="SEQ_CLS", say=lambda _: None)
    assert torch.equal(short.score.weight, reward(folder).score.weight.bfloat16())


def test_a_saved_head_is_loaded_and_nothing_is_said(tmp_path):
    model = reward(base(tmp_path / "llama"), num_labels=2)
    save_model(model, tmp_path / "saved")
    said: list[str] = []
    again = reward(tmp_path / "saved", seed=9, say=said.append)
    assert said == []
    assert torch.equal(again.score.weight, model.score.weight)
    assert torch.equal(reward(tmp_path / "saved", task=None).score.weight, model.score.weight)
    assert hasattr(reward(tmp_path / "llama", task=None), "lm_head")
    with pytest.raises(ModelError, match="a head of 2 values where 1 are asked for"):
        reward(tmp_path / "saved", num_labels=1)


def test_a_saved_reward_model_without_its_head_is_refused(tmp_path):
    save_model(reward(base(tmp_path / "llama")), tmp_path / "saved")
    file = tmp_path / "saved" / "model.safetensors"
    tensors = load_file(file)
    del tensors["score.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing in the checkpoint \(score.weight\)"):
        reward(tmp_path / "saved")


def test_any_other_missing_weight_is_refused(tmp_path):
    folder = base(tmp_path / "llama")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing in the checkpoint \(model.layers.1.mlp.up_proj"):
        reward(folder)


@pytest.mark.parametrize("family", ["llama", "tied"])
def test_a_reward_model_does_not_predict_words(tmp_path, family):
    """A tied one would load without a word: its head is its embedding."""
    save_model(reward(base(tmp_path / "base", family)), tmp_path / "saved")
    with pytest.raises(ModelError, match="a reward model: its head gives values instead of words"):
        load_model(Model(model_name_or_path=str(tmp_path / "saved")), torch.float32)


def test_shapes_that_do_not_fit_are_still_reported(tmp_path, caplog):
    folder = base(tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text()) | {"intermediate_size": 40}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="transformers' report above names them"):
        reward(folder)
    assert "MISMATCH" in caplog.text


def test_architectures_without_a_classifier_are_refused(tmp_path):
    folder = base(tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "olmoe"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="olmoe, of which transformers has no sequence classifier"):
        reward(folder)


@pytest.mark.parametrize(
    ("changes", "padding", "words"),
    [
        ({"pad_token_id": 7}, 7, None),
        ({"pad_token_id": None}, 1, "token 1 becomes one"),
        ({"pad_token_id": None, "bos_token_id": None}, 2, "before an end of text"),
        ({"pad_token_id": None, "bos_token_id": 2, "eos_token_id": [5, 2]}, 5, "before an end of text"),
        ({"pad_token_id": None, "bos_token_id": 999, "eos_token_id": None}, 59, "token 59 becomes one"),
    ],
)
def test_there_is_a_padding_token(tmp_path, changes, padding, words):
    folder, said = base(tmp_path / "llama"), []
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    model = reward(folder, say=said.append)
    assert model.config.pad_token_id == padding
    assert any(words in line for line in said) if words else not any("padding token" in line for line in said)
    save_model(model, tmp_path / "saved")
    assert reward(tmp_path / "saved").config.pad_token_id == padding
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, padding, padding]])
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        alone = model(input_ids=ids[1:, :2]).logits
        assert (model(input_ids=ids).logits[1:] - alone).abs().max() <= 1e-5


def test_the_tokenizer_beside_it_pads_with_the_same_token(tiny_llama: Path, tmp_path):
    model, tokenizer = reward(tiny_llama), AutoTokenizer.from_pretrained(tiny_llama)
    model.config.pad_token_id = tokenizer.convert_tokens_to_ids("<|system|>")
    save_model(model, tmp_path)
    save_words(tokenizer, model, tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.pad_token == "<|system|>"
    assert not (tmp_path / "generation_config.json").exists()


def test_inspect_shows_the_head_and_no_choice_reaches_it(tmp_path):
    save_model(reward(base(tmp_path / "llama")), tmp_path / "saved")
    found = dissect(str(tmp_path / "saved"), r=4)
    assert found.architecture == "LlamaForSequenceClassification"
    assert {part.name: part.kind for part in found.parts}["score"] == "head"
    words = {choice.target_modules: choice.modules for choice in found.choices}
    assert words["all-linear"] == 14
