# SPDX-License-Identifier: Apache-2.0
"""VeRA equals PEFT's VERA, both ways, in shared matrices, outputs, files, gradients and merged weights."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tests.folders import IDS, TOLERANCE, logits, read_back, shapes
from tests.reward import shake
from tests.tiny import tiny

from luthier.core.errors import ModelError, RecipeError
from luthier.export.adapter import fill_adapter, load_adapter
from luthier.methods import vera

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

CASES = [
    ("llama", {"r": 8}),
    ("llama", {"r": 40, "projection_prng_key": 3, "d_initial": 0.5, "target_modules": ["q_proj", "down_proj"]}),
    ("llama", {"r": 8, "save_projection": False}),
    ("tied", {"r": 8, "target_modules": ["lm_head", "v_proj"]}),
    ("qwen2", {"r": 8, "bias": "vera_only"}),
    ("qwen2", {"r": 8, "target_modules": ["q_proj"], "bias": "all", "save_projection": False}),
    ("gpt2", {"r": 8, "target_modules": ["c_attn", "mlp.c_proj"]}),
    ("gemma3", {"r": 8, "layers_to_transform": [1], "target_modules": ["q_proj", "up_proj"]}),
    ("llama", {"r": 8, "target_modules": ["v_proj"], "modules_to_save": ["lm_head"]}),
]
each = pytest.mark.parametrize(("family", "keys"), CASES)


def theirs_of(family: str, keys: dict):
    return get_peft_model(tiny(family), VeraConfig(**{"target_modules": "all-linear"} | keys, task_type="CAUSAL_LM"))


@each
def test_peft_loads_what_is_written_here(family, keys, tmp_path):
    model = tiny(family)
    before = logits(model)
    trainable = vera.apply(model, vera.Config(**keys))
    assert torch.equal(logits(model), before)
    shake(trainable.parameters().values())
    trainable.save(tmp_path)
    here, there = logits(model), PeftModel.from_pretrained(tiny(family), tmp_path)
    assert (here - before).abs().max() > 0.02
    assert (logits(there) - here).abs().max() <= TOLERANCE
    with trainable.disabled():
        assert torch.equal(logits(model), before)
    assert (logits(trainable.merge()) - here).abs().max() <= TOLERANCE


@each
def test_what_peft_writes_loads_here(family, keys, tmp_path):
    made = theirs_of(family, keys)
    shake([p for p in made.parameters() if p.requires_grad])
    trainable = read_back(made, tiny(family), tmp_path, ("base_layer.weight",))
    assert shapes(vera.apply(tiny(family), vera.Config(**keys))) == shapes(trainable)


@pytest.mark.parametrize("key", [0, 7])
def test_the_shared_matrices_are_pefts(key):
    theirs = theirs_of("llama", {"r": 24, "projection_prng_key": key}).base_model
    ours = vera.draw_projections((48, 48), 24, key)
    assert torch.equal(ours[0], theirs.vera_A["default"])
    assert torch.equal(ours[1], theirs.vera_B["default"])


@pytest.mark.parametrize(("family", "keys"), [CASES[0], CASES[6]])
def test_gradients_equal_peft(family, keys, tmp_path):
    model = tiny(family)
    trainable = vera.apply(model, vera.Config(**keys))
    shake(trainable.parameters().values())
    trainable.save(tmp_path)
    theirs = PeftModel.from_pretrained(tiny(family), tmp_path, is_trainable=True).train()
    for one in (model.train(), theirs):
        out = one(input_ids=IDS, use_cache=False).logits[0, :-1]
        torch.nn.functional.cross_entropy(out, IDS[0, 1:], reduction="sum").backward()
    wanted = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    for name, parameter in trainable.parameters().items():
        there = wanted.pop(f"base_model.model.{name}.default")
        assert (parameter.grad - there).abs().max() <= TOLERANCE * max(1.0, float(there.abs().max())), name
    assert not wanted


def test_training_goes_on_from_a_folder(tmp_path):
    """Also where the folder's matrices are not those of its seed: another version may draw others."""
    config = vera.Config(r=8)
    trained = vera.apply(tiny("llama"), config)
    shake(trained.parameters().values())
    trained.save(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.vera_A"] = 1.5 * tensors["base_model.vera_A"]
    save_file(tensors, file)
    again, loaded = vera.apply(tiny("llama"), config), tiny("llama")
    fill_adapter(again, tmp_path)
    load_adapter(loaded, tmp_path)
    there = logits(PeftModel.from_pretrained(tiny("llama"), tmp_path))
    assert (there - logits(trained.model)).abs().max() > 0.01
    assert (logits(again.model) - there).abs().max() <= TOLERANCE
    assert (logits(loaded) - there).abs().max() <= TOLERANCE


def test_other_shared_matrices_are_refused(tmp_path):
    vera.apply(tiny("llama"), vera.Config(r=8, save_projection=False, projection_prng_key=1)).save(tmp_path)
    for other in ({"projection_prng_key": 2, "save_projection": False}, {"projection_prng_key": 1}):
        with pytest.raises(RecipeError, match="write projection_prng_key: 1, save_projection: false"):
            fill_adapter(vera.apply(tiny("llama"), vera.Config(r=8, **other)), tmp_path)
    fill_adapter(vera.apply(tiny("llama"), vera.Config(r=8, projection_prng_key=1, save_projection=False)), tmp_path)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"target_modules": ["embed_tokens"]}, "embed_tokens, an embedding; linear layers"),
        ({"target_modules": ["q_prj"]}, "did you mean 'q_proj'"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["q_proj"]}, "which target_modules names too"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_touched(keys, said):
    model = tiny("llama")
    before = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    with pytest.raises(RecipeError, match=said):
        vera.apply(model, vera.Config(**keys))
    assert {name: (id(p), p.requires_grad) for name, p in model.named_parameters()} == before


def test_a_folder_that_does_not_fit_is_refused(tmp_path):
    vera.apply(tiny("llama"), vera.Config(r=8, save_projection=False)).save(tmp_path)
    file = tmp_path / "adapter_config.json"
    told = json.loads(file.read_text())
    wrongs = {
        "surprise: 3; VeRA": {"surprise": 3},
        "an update on model.embed_tokens, a Embedding": {"target_modules": ["embed_tokens"]},
        "has shape": {"r": 9},
        "no vera_A": {"save_projection": True},
        "vera_dropout: 2": {"vera_dropout": 2},
    }
    for said, wrong in wrongs.items():
        file.write_text(json.dumps(told | wrong))
        with pytest.raises(ModelError, match=said):
            load_adapter(tiny("llama"), tmp_path)
