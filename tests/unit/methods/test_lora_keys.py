# SPDX-License-Identifier: Apache-2.0
"""LoRA's keys: names and patterns as they are written, and what is refused in which words."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError
from tests.tiny import tiny
from tests.unit.methods.lora_models import applied

from luthier.core.errors import RecipeError
from luthier.methods import lora
from luthier.methods._peft import by_pattern, patterns_for


def message_of(family: str, **keys) -> str:
    """The refusal of a recipe; the model is as it was before."""
    model = tiny(family)
    before = {name: id(module) for name, module in model.named_modules()}
    with pytest.raises(RecipeError) as refusal:
        lora.apply(model, lora.Config(**({"r": 4} | keys)))
    assert {name: id(module) for name, module in model.named_modules()} == before
    assert all(parameter.requires_grad for parameter in model.parameters())
    return str(refusal.value)


def _written(trainable, folder) -> dict:
    trainable.save(folder)
    return json.loads((folder / "adapter_config.json").read_text())


def _made(folder):
    folder.mkdir()
    return folder


def test_leaf_names_are_written_where_they_say_enough(tmp_path):
    given = _written(applied("llama", target_modules="attention"), tmp_path)
    assert given["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert given["lora_alpha"] == 16
    assert isinstance(given["lora_alpha"], int)
    assert given["task_type"] == "CAUSAL_LM"


def test_longer_names_are_written_where_leaf_names_say_too_much(tmp_path):
    given = _written(applied("gpt2", target_modules="attention"), tmp_path)
    assert given["target_modules"] == ["attn.c_proj", "c_attn"]
    assert given["fan_in_fan_out"] is True


def test_whole_names_are_written_for_single_layers(tmp_path):
    given = _written(applied("llama", target_modules=["q_proj"], layers_to_transform=[1]), tmp_path)
    assert given["target_modules"] == ["model.layers.1.self_attn.q_proj"]
    assert "layers_to_transform" not in given


def test_patterns_do_not_depend_on_their_order(tmp_path):
    """PEFT sorts the keys of its JSON: two patterns that both match must mean the same afterwards."""
    patterns = {"q_proj": 2, r".*\.0\..*q_proj": 3}  # the first one wins; sorted, the other would
    given = _written(applied("llama", target_modules=["q_proj"], rank_pattern=patterns), tmp_path)
    assert given["rank_pattern"] == {"q_proj": 2}
    patterns = {r"model\.layers\.0\..*": 3, "q_proj": 2}
    given = _written(applied("llama", target_modules=["q_proj"], rank_pattern=patterns), _made(tmp_path / "b"))
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
    message = message_of(family, **keys)
    assert [part for part in said if part not in message] == [], message


def test_experts_are_left_out_on_purpose():
    """Naming layers, or excluding the experts, says that they stay frozen; attention never meets them."""
    for keys in (
        {"exclude_modules": ["experts", "shared_expert_gate"]},
        {"target_modules": ["q_proj"]},
        {"target_modules": "attention"},
    ):
        names = set(applied("experts", **keys).parameters())
        assert names
        assert not any("experts" in name for name in names)


def test_other_experts_can_be_excluded_by_layer():
    assert applied("experts", target_modules=["gate_proj"], layers_to_transform=[0]).parameters()


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
