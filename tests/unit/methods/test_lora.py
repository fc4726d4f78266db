# SPDX-License-Identifier: Apache-2.0
"""LoRA's own promises: dropout, numbers, ties, and errors that a reader can act on."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import ValidationError
from tests.tiny import tiny
from torch import nn

from luthier.core.errors import ModelError, RecipeError
from luthier.export.adapter import load_adapter
from luthier.methods import lora
from luthier.methods._lowrank import LoraEmbedding, LoraLayer, LoraLinear, TiedLoraHead, scaling_of
from luthier.methods._peft import by_pattern, patterns_for

IDS = torch.arange(20)[None]


@torch.no_grad()
def _logits(model) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits


@torch.no_grad()
def _shaken(trainable):
    for parameter in trainable.parameters().values():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return trainable


def _apply(family: str, **keys):
    return lora.apply(tiny(family), lora.Config(**({"r": 4} | keys)))


def _message(family: str, **keys) -> str:
    """The refusal of a recipe; the model is as it was before."""
    model = tiny(family)
    before = {name: id(module) for name, module in model.named_modules()}
    with pytest.raises(RecipeError) as refusal:
        lora.apply(model, lora.Config(**({"r": 4} | keys)))
    assert {name: id(module) for name, module in model.named_modules()} == before
    assert all(parameter.requires_grad for parameter in model.parameters())
    return str(refusal.value)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("r", "alpha", "rslora", "wanted"), [(8, 32, False, 4), (16, 8, True, 2), (3, 1.5, False, 0.5)]
)
def test_scaling(r, alpha, rslora, wanted):
    assert scaling_of(r, alpha, rslora) == wanted
    layer = _apply("llama", r=r, lora_alpha=float(alpha), use_rslora=rslora, target_modules=["q_proj"])
    assert layer.model.model.layers[0].self_attn.q_proj.scaling == wanted


@pytest.mark.parametrize("base", [nn.Linear(12, 7), nn.Linear(12, 7, bias=False)])
def test_the_formula(base):
    base.requires_grad_(False)
    layer = LoraLinear(base, r=3, scaling=0.7, dropout=0.0)
    with torch.no_grad():
        layer.lora_B.normal_()
    x = torch.randn(5, 12)
    wanted = base(x) + 0.7 * (x @ layer.lora_A.T @ layer.lora_B.T)
    assert torch.allclose(layer(x), wanted, atol=1e-6)
    assert torch.allclose(layer.merge()(x), wanted, atol=1e-6)


def test_a_merge_rounds_once():
    """W + update in float32, then bfloat16: half a unit in the last place, where adding bfloat16 numbers costs more."""
    base = nn.Linear(64, 64, bias=False).to(torch.bfloat16).requires_grad_(False)
    layer = LoraLinear(base, r=4, scaling=1.0, dropout=0.0)
    with torch.no_grad():
        layer.lora_B.normal_(std=0.01)
    exact = base.weight.double() + (layer.lora_B.double() @ layer.lora_A.double())
    got = layer.merge().weight
    assert got.dtype == torch.bfloat16
    ulp = 2.0 ** (torch.floor(torch.log2(exact.abs())) - 7)
    assert ((got.double() - exact).abs() <= 0.5001 * ulp).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_adapters_are_never_narrower_than_float32(dtype):
    trainable = lora.apply(tiny("tied").to(dtype), lora.Config(r=4, target_modules=["embed_tokens", "q_proj"]))
    wide = torch.promote_types(dtype, torch.float32)
    assert {p.dtype for p in trainable.parameters().values()} == {wide}
    assert _logits(trainable.model).dtype == dtype


def test_whole_modules_keep_the_models_type():
    """The next layer multiplies what they give; float32 there would not fit a bfloat16 weight."""
    model = tiny("llama").to(torch.bfloat16)
    trainable = lora.apply(model, lora.Config(r=4, modules_to_save=["embed_tokens", "lm_head", "norm"]))
    assert _logits(model).dtype == torch.bfloat16
    assert trainable.parameters()["lm_head.weight"].dtype == torch.bfloat16


def test_any_module_can_be_adapted():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(4, 6)
    before = model(x)
    trainable = _shaken(lora.apply(model, lora.Config(r=2, target_modules=["0", "2"], bias="all")))
    after = model(x)
    assert not torch.allclose(before, after)
    with trainable.disabled():
        assert torch.equal(model(x), before)
    assert torch.allclose(trainable.merge()(x), after, atol=1e-6)


# ---------------------------------------------------------------- dropout


def test_dropout_only_touches_the_low_rank_branch():
    """With B = 0 nothing of the branch is seen, so a train-mode forward with dropout is the base, to the bit."""
    trainable = _apply("llama", lora_dropout=0.5)
    wanted = _logits(tiny("llama"))
    trainable.model.train()
    assert torch.equal(_logits(trainable.model), wanted)


def test_dropout_draws_from_the_seed_and_sleeps_in_evaluation():
    trainable = _shaken(_apply("llama", lora_dropout=0.5, target_modules=["q_proj", "lm_head"]))
    model = trainable.model.train()
    torch.manual_seed(1)
    first = _logits(model)
    second = _logits(model)
    torch.manual_seed(1)
    assert torch.equal(_logits(model), first)
    assert not torch.equal(second, first)
    model.eval()
    assert torch.equal(_logits(model), _logits(model))


def test_dropout_is_the_formula():
    layer = LoraLinear(nn.Linear(12, 7).requires_grad_(False), r=3, scaling=2.0, dropout=0.4).train()
    with torch.no_grad():
        layer.lora_B.normal_()
    x = torch.randn(5, 12, requires_grad=True)
    torch.manual_seed(5)
    layer(x).square().sum().backward()
    got = (x.grad, layer.lora_A.grad, layer.lora_B.grad)
    x2, a, b = (t.detach().clone().requires_grad_() for t in (x, layer.lora_A, layer.lora_B))
    torch.manual_seed(5)
    (layer.base_layer(x2) + 2.0 * (nn.functional.dropout(x2, 0.4) @ a.T @ b.T)).square().sum().backward()
    for ours, wanted in zip(got, (x2.grad, a.grad, b.grad), strict=True):
        assert torch.allclose(ours, wanted, atol=1e-4, rtol=1e-5)


# ---------------------------------------------------------------- ties


def _tied(model) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize(
    "keys",
    [
        {"target_modules": ["lm_head"]},
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["lm_head", "embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
    ],
)
def test_one_end_of_a_tied_model(keys, tmp_path):
    """It is that end's alone; merging makes two matrices, which saving and loading keep."""
    trainable = _shaken(_apply("tied", **keys))
    trained = _logits(trainable.model)
    merged = trainable.merge()
    assert not _tied(merged)
    assert merged.config.tie_word_embeddings is False
    merged.save_pretrained(tmp_path)
    again = type(merged).from_pretrained(tmp_path)
    assert not _tied(again)
    assert (_logits(again) - trained).abs().max() <= 1e-5


@pytest.mark.parametrize(
    "keys",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["lm_head"], "ensure_weight_tying": True},
        {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ],
)
def test_a_tied_model_stays_tied(keys, tmp_path):
    trainable = _shaken(_apply("tied", **keys))
    trained = _logits(trainable.model)
    merged = trainable.merge()
    assert _tied(merged)
    merged.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is True
    again = type(merged).from_pretrained(tmp_path)
    assert _tied(again)
    assert (_logits(again) - trained).abs().max() <= 2e-5


@pytest.mark.parametrize("keys", [{"target_modules": ["lm_head"]}, {"modules_to_save": ["lm_head"]}])
def test_an_update_of_nothing_unties_nothing(keys):
    merged = _apply("tied", **keys).merge()
    assert _tied(merged)
    assert merged.config.tie_word_embeddings is True


def test_a_shared_update_is_counted_once():
    trainable = _apply("tied", target_modules=["lm_head"], ensure_weight_tying=True)
    assert set(trainable.parameters()) == {"model.embed_tokens.lora_embedding_A", "model.embed_tokens.lora_embedding_B"}
    layers = [module for module in trainable.model.modules() if isinstance(module, LoraLayer)]
    assert {type(layer) for layer in layers} == {LoraEmbedding, TiedLoraHead}
    whole = _apply("tied", modules_to_save=["lm_head"], target_modules=["q_proj"], ensure_weight_tying=True)
    assert "model.embed_tokens.weight" in whole.parameters()
    assert "lm_head.weight" not in whole.parameters()


def test_the_other_end_keeps_its_numbers():
    trainable = _shaken(_apply("tied", modules_to_save=["lm_head"], target_modules=["q_proj"]))
    assert torch.equal(trainable.model.get_input_embeddings().weight, tiny("tied").get_input_embeddings().weight)


# ---------------------------------------------------------------- switching off


@pytest.mark.parametrize("keys", [{"bias": "all"}, {"bias": "lora_only"}, {"modules_to_save": ["norm", "lm_head"]}])
def test_off_means_the_base_also_for_what_trains_whole(keys):
    trainable = _shaken(_apply("qwen2", **keys))
    trained = _logits(trainable.model)
    with trainable.disabled():
        assert torch.equal(_logits(trainable.model), _logits(tiny("qwen2")))
    assert torch.equal(_logits(trainable.model), trained)


def test_it_is_on_again_after_an_error():
    trainable = _shaken(_apply("llama"))
    trained = _logits(trainable.model)
    with pytest.raises(ZeroDivisionError), trainable.disabled():
        raise ZeroDivisionError
    assert torch.equal(_logits(trainable.model), trained)


def test_off_inside_off():
    trainable = _shaken(_apply("llama", modules_to_save=["lm_head"]))
    base = _logits(tiny("llama"))
    with trainable.disabled():
        with trainable.disabled():
            assert torch.equal(_logits(trainable.model), base)
        assert torch.equal(_logits(trainable.model), base)


# ---------------------------------------------------------------- what the file says


def _written(trainable, folder) -> dict:
    trainable.save(folder)
    return json.loads((folder / "adapter_config.json").read_text())


def _made(folder):
    folder.mkdir()
    return folder


def test_leaf_names_are_written_where_they_say_enough(tmp_path):
    given = _written(_apply("llama", target_modules="attention"), tmp_path)
    assert given["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert given["lora_alpha"] == 16
    assert isinstance(given["lora_alpha"], int)
    assert given["task_type"] == "CAUSAL_LM"


def test_longer_names_are_written_where_leaf_names_say_too_much(tmp_path):
    given = _written(_apply("gpt2", target_modules="attention"), tmp_path)
    assert given["target_modules"] == ["attn.c_proj", "c_attn"]
    assert given["fan_in_fan_out"] is True


def test_whole_names_are_written_for_single_layers(tmp_path):
    given = _written(_apply("llama", target_modules=["q_proj"], layers_to_transform=[1]), tmp_path)
    assert given["target_modules"] == ["model.layers.1.self_attn.q_proj"]
    assert "layers_to_transform" not in given


def test_patterns_do_not_depend_on_their_order(tmp_path):
    """PEFT sorts the keys of its JSON: two patterns that both match must mean the same afterwards."""
    patterns = {"q_proj": 2, r".*\.0\..*q_proj": 3}  # the first one wins; sorted, the other would
    given = _written(_apply("llama", target_modules=["q_proj"], rank_pattern=patterns), tmp_path)
    assert given["rank_pattern"] == {"q_proj": 2}
    patterns = {r"model\.layers\.0\..*": 3, "q_proj": 2}
    given = _written(_apply("llama", target_modules=["q_proj"], rank_pattern=patterns), _made(tmp_path / "b"))
    names = {n: by_pattern(given["rank_pattern"], f"model.layers.{n}.self_attn.q_proj", 4) for n in (0, 1)}
    assert names == {0: 3, 1: 2}


@pytest.mark.parametrize(
    ("values", "default", "given", "wanted"),
    [
        ({"h.0.a": 1, "h.1.a": 1}, 1, {}, {}),
        ({"h.0.a": 2, "h.1.a": 2, "h.0.b": 1}, 1, {}, {"a": 2}),
        ({"h.0.a": 2, "h.1.a": 1}, 1, {}, {"h.0.a": 2}),
        ({"h.0.a": 2, "h.1.a": 1}, 1, {r"h\.0\..*": 2}, {r"h\.0\..*": 2}),
    ],
)
def test_pattern_tables_are_short_and_exact(values, default, given, wanted):
    table = patterns_for(values, default, given)
    assert table == wanted
    assert {name: by_pattern(table, name, default) for name in values} == values


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("family", "keys", "said"),
    [
        (
            "llama",
            {"target_modules": ["q_porj"]},
            ["method.target_modules: 'q_porj'", "q_proj, up_proj", "did you mean 'q_proj'?"],
        ),
        (
            "llama",
            {"target_modules": ["c_attn"]},
            ["'c_attn' names no layer", "down_proj", "name endings from that list"],
        ),
        (
            "llama",
            {"target_modules": "q_proj"},
            ["the regular expression 'q_proj' matches no layer", "a list: [q_proj]"],
        ),
        ("llama", {"target_modules": "q_proj,v_proj"}, ["'q_proj,v_proj' matches no layer", "whole names"]),
        ("llama", {"target_modules": "(q_proj"}, ["'(q_proj' is no regular expression", "all-linear", "as a list"]),
        ("llama", {"target_modules": []}, ["an empty list", "all-linear, attention, mlp"]),
        (
            "llama",
            {"target_modules": ["input_layernorm"]},
            ["a LlamaRMSNorm", "linear and embedding layers", "`method: norm`", "modules_to_save"],
        ),
        ("llama", {"target_modules": ["self_attn"]}, ["a LlamaAttention", "name the layers in it: k_proj, o_proj"]),
        (
            "llama",
            {"target_modules": r".*layers\.0\..*"},
            ["layernorm", "a LlamaRMSNorm", "linear and embedding layers"],
        ),
        (
            "llama",
            {"exclude_modules": ["q_prj"]},
            ["method.exclude_modules: 'q_prj' matches no module", "did you mean 'q_proj'?"],
        ),
        ("llama", {"exclude_modules": "*"}, ["method.exclude_modules: '*' is no regular expression"]),
        (
            "llama",
            {"target_modules": ["q_proj"], "exclude_modules": ["self_attn"]},
            ["'q_proj'", "leave nothing of it"],
        ),
        ("llama", {"layers_to_transform": [0, 7]}, ["method.layers_to_transform: layer 7", "layers 0 to 1"]),
        ("llama", {"layers_to_transform": []}, ["method.layers_to_transform: no layer", "layers 0 to 1"]),
        (
            "llama",
            {"target_modules": ["q_proj", "lm_head"], "layers_to_transform": [0]},
            ["'lm_head'", "leave nothing of it"],
        ),
        ("llama", {"r": 17}, ["method.r: rank 17 for", "16 x 32", "at most 16", "rank_pattern: {k_proj: 16}"]),
        ("llama", {"rank_pattern": {"v_proj": 99}}, ["method.rank_pattern: rank 99 for", "at most 16"]),
        (
            "llama",
            {"rank_pattern": {"qproj": 2}},
            ["method.rank_pattern: 'qproj' matches none of the targets", "did you mean 'q_proj'?"],
        ),
        (
            "llama",
            {"alpha_pattern": {"lm_head": 2.0}},
            ["method.alpha_pattern: 'lm_head' matches none of the targets", "q_proj"],
        ),
        ("llama", {"alpha_pattern": {"(q": 2.0}}, ["method.alpha_pattern: ", "is no regular expression"]),
        (
            "llama",
            {"modules_to_save": ["lmhead"]},
            ["method.modules_to_save: 'lmhead' names no module", "did you mean 'lm_head'?"],
        ),
        ("llama", {"modules_to_save": ["act_fn"]}, ["act_fn, which has no weights", "remove it"]),
        (
            "llama",
            {"target_modules": ["lm_head"], "modules_to_save": ["lm_head"]},
            ["which target_modules names too", "one of them"],
        ),
        (
            "llama",
            {"target_modules": "attention", "modules_to_save": ["self_attn"]},
            ["all of which modules_to_save trains whole"],
        ),
        ("llama", {"ensure_weight_tying": True}, ["method.ensure_weight_tying", "two matrices", "leave it out"]),
        (
            "tied",
            {"ensure_weight_tying": True},
            ["neither model.embed_tokens nor lm_head trains", "add 'embed_tokens'"],
        ),
        (
            "tied",
            {"target_modules": ["embed_tokens"], "ensure_weight_tying": True, "rank_pattern": {"lm_head": 2}},
            ["method.rank_pattern: different values for model.embed_tokens and lm_head", "the same r and lora_alpha"],
        ),
        (
            "experts",
            {},
            ["'all-linear' cannot reach the experts", "mlp.experts.gate_up_proj", "exclude_modules: [experts]"],
        ),
        ("experts", {"target_modules": "mlp"}, ["'mlp' cannot reach the experts"]),
        ("experts", {"target_modules": ["experts"]}, ["a Qwen2MoeExperts", "linear and embedding layers"]),
    ],
)
def test_refusals_say_where_what_and_how(family, keys, said):
    message = _message(family, **keys)
    assert [part for part in said if part not in message] == [], message


def test_experts_are_left_out_on_purpose():
    """Naming layers, or excluding the experts, says that they stay frozen; attention never meets them."""
    for keys in (
        {"exclude_modules": ["experts", "shared_expert_gate"]},
        {"target_modules": ["q_proj"]},
        {"target_modules": "attention"},
    ):
        names = set(_apply("experts", **keys).parameters())
        assert names
        assert not any("experts" in name for name in names)


def test_other_experts_can_be_excluded_by_layer():
    assert _apply("experts", target_modules=["gate_proj"], layers_to_transform=[0]).parameters()


@pytest.mark.parametrize(
    "keys", [{"r": 0}, {"r": 2.5}, {"lora_alpha": 0.0}, {"lora_dropout": 1.0}, {"bias": "some"}, {"rank": 8}]
)
def test_values_that_mean_nothing(keys):
    with pytest.raises(ValidationError):
        lora.Config(**keys)


def test_lists_become_tuples():
    config = lora.Config(
        target_modules=["q_proj"], exclude_modules=["k_proj"], modules_to_save=["lm_head"], layers_to_transform=[1]
    )
    assert config.target_modules == ("q_proj",)
    assert config.exclude_modules == ("k_proj",)
    assert lora.Config.model_validate(config.model_dump(mode="json")) == config


# ---------------------------------------------------------------- folders that are refused


def _folder(tmp_path, **changes):
    trainable = _apply("llama", target_modules=["q_proj"])
    trainable.save(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return tmp_path


VARIANTS = {
    "alora_invocation_tokens": [1, 2],
    "trainable_token_indices": [5],
    "target_parameters": ["mlp.experts.gate_up_proj"],
    "lora_bias": True,
    "layer_replication": [[0, 2], [1, 2]],
    "use_qalora": True,
    "megatron_config": {"tensor_model_parallel_size": 2},
    "arrow_config": {"top_k": 2},
    "velora_config": {"rank": 1},
    "use_bdlora": {"nblocks": 2},
    "kasa_config": {"beta": 1e-4},
    "monteclora_config": {"num_samples": 8},
    "a_key_of_tomorrow": "on",
}


@pytest.mark.parametrize("key", VARIANTS)
def test_variants_are_refused_by_name(key, tmp_path):
    with pytest.raises(ModelError, match=rf"{key}: .*; LoRA, rsLoRA or DoRA.*merge_and_unload"):
        load_adapter(tiny("llama"), _folder(tmp_path, **{key: VARIANTS[key]}))


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"])
def test_starts_that_change_the_base_are_refused(start, tmp_path):
    with pytest.raises(ModelError, match=rf"init_lora_weights: '{start}'.*path_initial_model_for_weight_conversion"):
        load_adapter(tiny("llama"), _folder(tmp_path, init_lora_weights=start))


def test_harmless_keys_are_read_over(tmp_path):
    given = {
        "megatron_core": "megatron.core",
        "loftq_config": {},
        "lora_bias": False,
        "eva_config": None,
        "revision": None,
    }
    load_adapter(tiny("llama"), _folder(tmp_path, **given))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_modules": None}, "target_modules: null, PEFT's own choice"),
        ({"target_modules": ["c_attn"]}, "matches no layer; the base it was trained on"),
        (
            {"target_modules": ["q_proj", "input_layernorm"]},
            "an update on model.layers.0.input_layernorm, a LlamaRMSNorm",
        ),
        ({"target_modules": "(q_proj"}, "a pattern that is no regular expression"),
        ({"rank_pattern": {"(q": 3}}, "rank_pattern: '\\(q' is no regular expression"),
        ({"target_modules": ["q_proj", "v_proj"]}, "no weights for model.layers.0.self_attn.v_proj.lora_A.weight"),
        ({"r": 5}, "lora_A.weight has shape \\(4, 32\\), the model \\(5, 32\\)"),
        (
            {"target_modules": ["model.layers.0.self_attn.q_proj"]},
            "layers.1.self_attn.q_proj.lora_A.weight has no place",
        ),
        ({"peft_type": "NOTHING"}, "peft_type 'NOTHING'; .*LORA"),
        ({"r": "8"}, "r: '8'; input should be a valid integer; mend adapter_config.json"),
        ({"bias": "some"}, "bias: 'some'"),
    ],
)
def test_folders_that_do_not_fit(changes, said, tmp_path):
    with pytest.raises(ModelError, match=said):
        load_adapter(tiny("llama"), _folder(tmp_path, **changes))
