# SPDX-License-Identifier: Apache-2.0
"""Which layers the words, names and patterns of `target_modules` mean, and the shortest names that mean them again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.parity.families import PROVEN, build
from tests.tiny import FAMILIES, tiny

from luthier.models.targets import endings_of, ends_with, find_targets, kind_of, layer_number, stacked_experts
from luthier.models.ties import embedding_of, head_of, tied_pair

LEAVES = {
    "llama": ({"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}),
    "qwen2": ({"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}),
    "gemma3": ({"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}),
    "gpt2": ({"c_attn", "c_proj"}, {"c_fc", "c_proj"}),
    "neox": ({"query_key_value", "dense"}, {"dense_h_to_4h", "dense_4h_to_h"}),
}


def _names(family: str, *words, **keys) -> list[str]:
    return list(find_targets(tiny(family), *words, **keys))


@pytest.mark.parametrize("family", LEAVES)
def test_words(family):
    attention, mlp = LEAVES[family]
    assert {name.split(".")[-1] for name in _names(family, "attention")} == attention
    assert {name.split(".")[-1] for name in _names(family, "mlp")} == mlp
    both = _names(family, "attention") + _names(family, "mlp")
    assert sorted(_names(family, "all-linear")) == sorted(both)
    assert _names(family, "ALL-LINEAR") == _names(family, "all-linear")


@pytest.mark.parametrize("family", LEAVES)
def test_the_head_is_never_part_of_a_word(family):
    assert not any("lm_head" in name for word in ("all-linear", "attention", "mlp") for name in _names(family, word))


@pytest.mark.parametrize("family", [name for name in PROVEN if "multimodal" in name])
def test_words_reach_the_text_decoder_of_a_multimodal_model(family):
    """A vision tower does not run on text: its updates would stay zero. Gemma 4's holds a table of three dimensions."""
    model = build(*PROVEN[family], attention="eager")
    ran = set()
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.add(name))
    model(input_ids=torch.arange(3, 9)[None])
    every = find_targets(model, "all-linear")
    assert set(every) <= ran
    assert {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n in ran} == {*every, "lm_head"}
    for word in ("attention", "mlp"):
        assert 0 < len(found := set(find_targets(model, word))) < len(every)
        assert found <= set(every)
    assert find_targets(model, r".*vision_tower.*q_proj(\.linear)?"), "a tower that is named is meant"


def test_words_and_names_together():
    names = _names("llama", ["attention", "lm_head", "embed_tokens"])
    assert names[0] == "model.embed_tokens"
    assert names[-1] == "lm_head"
    assert len(names) == 2 + 8


def test_endings_are_whole_components():
    assert _names("gpt2", ["mlp.c_proj"]) == ["transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_proj"]
    assert not ends_with("model.layers.0.q_proj", "proj")
    assert ends_with("lm_head", "lm_head")


def test_a_pattern_matches_whole_names_and_passes_over_blocks():
    assert _names("llama", r"model\.layers\.0\.mlp.*") == [
        f"model.layers.0.mlp.{n}_proj" for n in ("gate", "up", "down")
    ]


def test_excluding_a_block_excludes_what_is_in_it():
    assert _names("llama", "all-linear", exclude_modules=["mlp"]) == _names("llama", "attention")
    assert _names("llama", "all-linear", exclude_modules=r".*\.mlp") == _names("llama", "attention")


def test_layers():
    assert {layer_number(name) for name in _names("gpt2", "all-linear", layers_to_transform=[1])} == {1}
    assert _names("llama", ["q_proj"], layers_to_transform=[0, 1]) == _names("llama", ["q_proj"])


def test_the_models_order_is_kept():
    assert _names("llama", ["up_proj", "q_proj"]) == sorted(
        _names("llama", ["q_proj", "up_proj"]), key=lambda n: (n[13], "mlp" in n)
    )


def test_kinds():
    model = tiny("llama")
    kinds = {name: kind_of(name, module, head_of(model)) for name, module in model.named_modules()}
    assert kinds["model.embed_tokens"] == "embedding"
    assert kinds["lm_head"] == "head"
    assert kinds["model.layers.0.input_layernorm"] == "norm"
    assert kinds["model.layers.1.self_attn.o_proj"] == "attention"
    assert kinds["model.layers.1.mlp.down_proj"] == "mlp"


def test_experts_are_seen():
    found = stacked_experts(tiny("experts"))
    assert found[0] == "model.layers.0.mlp.experts.gate_up_proj"
    assert len(found) == 4
    assert [family for family in FAMILIES if family != "experts" and stacked_experts(tiny(family))] == []


def test_ties():
    assert tied_pair(tiny("tied")) == ("model.embed_tokens", "lm_head")
    assert tied_pair(tiny("gpt2")) == ("transformer.wte", "lm_head")
    assert tied_pair(tiny("llama")) is None
    plain = tiny("llama").model.layers[0]
    assert (head_of(plain), embedding_of(plain), tied_pair(plain)) == (None, None, None)


_part = st.sampled_from(["attn", "mlp", "q", "k", "out", "x"])
_name = st.builds(
    lambda n, parts: ".".join(["h", str(n), *parts]), st.integers(0, 3), st.lists(_part, min_size=1, max_size=3)
)


@given(st.lists(_name, min_size=1, max_size=30, unique=True), st.data())
def test_endings_mean_just_these(every, data):
    chosen = data.draw(st.lists(st.sampled_from(every), min_size=1, unique=True))
    endings = endings_of(chosen, every)
    assert {name for name in every if any(ends_with(name, ending) for ending in endings)} == set(chosen)
    assert endings_of(chosen, every) == endings
