# SPDX-License-Identifier: Apache-2.0
"""LoHa and LoKr equal PEFT's LOHA and LOKR, both ways, in outputs, files, gradients and merged weights."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, PeftModel, get_peft_model
from peft.tuners.lokr.layer import factorization
from tests.folders import IDS, TOLERANCE, logits, read_back, shapes
from tests.reward import shake
from tests.tiny import tiny

from luthier.core import registry
from luthier.core.errors import ModelError, RecipeError
from luthier.export.adapter import fill_adapter, load_adapter
from luthier.methods import loha, lokr
from luthier.methods.lokr import LokrLinear, factored

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

THEIRS = {"loha": LoHaConfig, "lokr": LoKrConfig}
PATTERNS = {"rank_pattern": {"down_proj": 2, "q_proj": 3}, "alpha_pattern": {"up_proj": 3}}
CASES = [
    ("loha", "llama", {"r": 4, "alpha": 6}),  # r^2 is the least size of k_proj
    ("loha", "llama", {"r": 8}),  # r^2 is larger than every layer
    ("loha", "qwen2", {"r": 3, "target_modules": ["k_proj", "down_proj"]}),
    ("loha", "llama", {"r": 5, **PATTERNS}),
    ("loha", "tied", {"r": 4, "target_modules": ["lm_head", "v_proj"]}),
    ("loha", "gemma3", {"r": 4, "layers_to_transform": [1], "target_modules": ["q_proj", "up_proj"]}),
    ("loha", "llama", {"r": 4, "target_modules": ["v_proj"], "modules_to_save": ["lm_head"]}),
    ("lokr", "llama", {"r": 2, "alpha": 3}),  # w2 is a product
    ("lokr", "llama", {"r": 8}),  # all whole
    ("lokr", "llama", {"r": 1, "decompose_both": True}),
    ("lokr", "qwen2", {"r": 2, "decompose_factor": 4, "decompose_both": True}),
    ("lokr", "llama", {"r": 2, "decompose_factor": 5, "rank_dropout": 0.5, "rank_dropout_scale": True}),
    ("lokr", "llama", {"r": 2, **PATTERNS}),
    ("lokr", "tied", {"r": 2, "target_modules": ["lm_head", "v_proj"]}),
    ("lokr", "neox", {"r": 2, "exclude_modules": ["query_key_value"]}),
    ("lokr", "llama", {"r": 2, "target_modules": ["v_proj"], "modules_to_save": ["lm_head"]}),
]
each = pytest.mark.parametrize(("name", "family", "keys"), CASES)


def ours_of(name: str, family: str, keys: dict):
    method = registry.get("methods", name)
    return method.apply(tiny(family), method.Config(**keys))


def theirs_of(name: str, family: str, keys: dict):
    config = THEIRS[name](**{"target_modules": "all-linear"} | keys, task_type="CAUSAL_LM")
    return get_peft_model(tiny(family), config)


@each
def test_peft_loads_what_is_written_here(name, family, keys, tmp_path):
    trainable = ours_of(name, family, keys)
    before = logits(tiny(family))
    assert torch.equal(logits(trainable.model), before)
    shake(trainable.parameters().values())
    trainable.save(tmp_path)
    here, there = logits(trainable.model), PeftModel.from_pretrained(tiny(family), tmp_path)
    assert (here - before).abs().max() > 0.01
    assert (logits(there) - here).abs().max() <= TOLERANCE
    with trainable.disabled():
        assert torch.equal(logits(trainable.model), before)
    merged = trainable.merge()
    assert (logits(merged) - here).abs().max() <= TOLERANCE
    if not {"modules_to_save", "target_modules"} & keys.keys():
        theirs_merged = dict(there.merge_and_unload().named_parameters())
        for key, parameter in merged.named_parameters():
            assert (parameter - theirs_merged[key]).abs().max() <= 1e-6, key


@each
def test_what_peft_writes_loads_here(name, family, keys, tmp_path):
    made = theirs_of(name, family, keys)
    shake([p for p in made.parameters() if p.requires_grad])
    trainable = read_back(made, tiny(family), tmp_path, ("base_layer.weight",))
    assert shapes(ours_of(name, family, keys)) == shapes(trainable)


@pytest.mark.parametrize(("name", "family", "keys"), [CASES[0], CASES[1], CASES[7], CASES[8], CASES[9]])
def test_gradients_equal_peft(name, family, keys, tmp_path):
    trainable = ours_of(name, family, keys)
    shake(trainable.parameters().values())
    trainable.save(tmp_path)
    theirs = PeftModel.from_pretrained(tiny(family), tmp_path, is_trainable=True).train()
    for one in (trainable.model.train(), theirs):
        out = one(input_ids=IDS, use_cache=False).logits[0, :-1]
        torch.nn.functional.cross_entropy(out, IDS[0, 1:], reduction="sum").backward()
    wanted = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    for key, parameter in trainable.parameters().items():
        there = wanted.pop(f"base_model.model.{key}.default")
        assert (parameter.grad - there).abs().max() <= TOLERANCE * max(1.0, float(there.abs().max())), key
    assert not wanted


@pytest.mark.parametrize(("name", "start"), [("loha", True), ("lokr", True), ("lokr", "lycoris")])
def test_the_start_is_pefts(name, start):
    """What is zero is zero there too, and the rest is drawn from the same interval."""
    keys = {"r": 1, **({"decompose_both": True, "init_weights": start} if name == "lokr" else {})}
    theirs = dict(theirs_of(name, "llama", keys).named_parameters())
    for key, ours in ours_of(name, "llama", keys).parameters().items():
        there = theirs[f"base_model.model.{key}.default"]
        assert (ours == 0).all() == (there == 0).all(), key
        bound = ours.shape[1] ** -0.5  # Kaiming-uniform with a = sqrt(5): 1 / sqrt(fan in)
        assert max(float(ours.abs().max()), float(there.abs().max())) <= bound, key


@pytest.mark.parametrize("factor", [-1, 1, 2, 3, 4, 7, 8, 16, 60])
def test_sizes_are_factored_as_in_peft(factor):
    assert [factored(size, factor) for size in range(1, 200)] == [factorization(size, factor) for size in range(1, 200)]


@pytest.mark.parametrize(("name", "scaled"), [("loha", True), ("lokr", True), ("lokr", False)])
def test_dropout_drops_outputs_and_whole_layers(name, scaled):
    keys = {"r": 4, "rank_dropout": 0.5, "target_modules": ["down_proj"]}
    keys |= {"rank_dropout_scale": scaled} if name == "lokr" else {}
    trainable = ours_of(name, "llama", keys)
    shake(trainable.parameters().values(), 0.5)
    layer, x = trainable.model.model.layers[0].mlp.down_proj.train(), torch.randn(7, 48)
    with torch.no_grad():
        whole = layer.eval()(x) - layer.base_layer(x)
        got = layer.train()(x) - layer.base_layer(x)
    dropped = got.abs().max(0).values < 1e-6
    assert 4 < int(dropped.sum()) < 28  # of 32 outputs; the same for all tokens
    factor = 32 / int((~dropped).sum()) if scaled else 1.0
    torch.testing.assert_close(got[:, ~dropped], factor * whole[:, ~dropped], atol=1e-4, rtol=1e-4)
    trainable = ours_of(name, "llama", {"r": 4, "module_dropout": 0.5, "target_modules": ["down_proj"]})
    shake(trainable.parameters().values(), 0.5)
    layer = trainable.model.model.layers[0].mlp.down_proj.train()
    with torch.no_grad():
        off = [bool(torch.allclose(layer(x), layer.base_layer(x), atol=1e-6)) for _ in range(40)]
    assert 8 < sum(off) < 32


def test_lokr_never_makes_the_matrix_in_training(monkeypatch):
    trainable = ours_of("lokr", "llama", {"r": 2})
    monkeypatch.setattr(LokrLinear, "product", lambda _: pytest.fail("the whole matrix was made"))
    logits(trainable.model.train())


@pytest.mark.parametrize("name", THEIRS)
def test_training_goes_on_from_a_folder_of_the_same_scaling(name, tmp_path):
    trained = ours_of(name, "llama", {"r": 2})
    shake(trained.parameters().values())
    trained.save(tmp_path)
    again = ours_of(name, "llama", {"r": 2})
    fill_adapter(again, tmp_path)
    assert torch.equal(logits(again.model), logits(trained.model))
    with pytest.raises(RecipeError, match="write r: 2, alpha: 8"):
        fill_adapter(ours_of(name, "llama", {"r": 2, "alpha": 4}), tmp_path)


@pytest.mark.parametrize(
    ("method", "keys", "said"),
    [
        (loha, {"target_modules": ["embed_tokens"]}, "embed_tokens, an embedding; linear layers"),
        (lokr, {"target_modules": ["q_prj"]}, "did you mean 'q_proj'"),
        (lokr, {"rank_pattern": {"q_prj": 3}}, "'q_prj' matches none of the targets"),
        (loha, {"r": 17}, r"method.r: rank 17 for model.layers.0.self_attn.k_proj, which is 16 x 32; at most 16"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_touched(method, keys, said):
    model = tiny("llama")
    before = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    with pytest.raises(RecipeError, match=said):
        method.apply(model, method.Config(**keys))
    assert {name: (id(p), p.requires_grad) for name, p in model.named_parameters()} == before


@pytest.mark.parametrize("name", THEIRS)
def test_a_folder_that_does_not_fit_is_refused(name, tmp_path):
    ours_of(name, "llama", {"r": 2}).save(tmp_path)
    file = tmp_path / "adapter_config.json"
    told = json.loads(file.read_text())
    wrongs = {
        "surprise: 3; Lo": {"surprise": 3},
        "an update on model.embed_tokens, a Embedding": {"target_modules": ["embed_tokens"]},
        "has shape": {"r": 3},
        "rank_dropout: 2": {"rank_dropout": 2},
    }
    for said, wrong in wrongs.items():
        file.write_text(json.dumps(told | wrong))
        with pytest.raises(ModelError, match=said):
            load_adapter(tiny("llama"), tmp_path)
