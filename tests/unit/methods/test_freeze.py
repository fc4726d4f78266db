# SPDX-License-Identifier: Apache-2.0
"""Partial fine-tuning: LLaMA-Factory's numbers of layers, names and patterns; what is wrong is said beforehand."""

from __future__ import annotations

import pytest
import torch
from tests.reward import base, reward
from tests.tiny import tiny
from transformers import AutoConfig, AutoModelForCausalLM

from luthier.core.errors import RecipeError
from luthier.methods import freeze


def five():
    config = AutoConfig.for_model(
        "llama", vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=5, num_attention_heads=2
    )
    return AutoModelForCausalLM.from_config(config)


def trained(model, **keys) -> set[str]:
    trainable = freeze.apply(model, freeze.Config(**keys))
    assert trainable.parameters().keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(dict(model.named_parameters())[name] is p for name, p in trainable.parameters().items())
    return set(trainable.parameters())


def numbers(names: set[str]) -> set[int]:
    return {int(name.split(".")[2]) for name in names}


@pytest.mark.parametrize(
    ("given", "layers"),
    [(None, {3, 4}), (1, {4}), (3, {2, 3, 4}), (5, {0, 1, 2, 3, 4}), (-1, {0}), (-2, {0, 1}), (-5, {0, 1, 2, 3, 4})],
)
def test_the_last_layers_or_the_first(given, layers):
    model = five()
    names = trained(model, freeze_trainable_layers=given)
    assert names == {n for n, _ in model.named_parameters() if any(n.startswith(f"model.layers.{k}.") for k in layers)}
    assert numbers(names) == layers


def test_modules_inside_and_outside_of_layers():
    names = trained(five(), freeze_trainable_layers=1, freeze_trainable_modules="mlp, self_attn.q_proj")
    assert {name.split(".", 3)[3] for name in names} == {
        "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight", "self_attn.q_proj.weight"
    }  # fmt: skip
    names = trained(five(), freeze_trainable_layers=0, freeze_extra_modules=["norm", "lm_head"])
    assert names == {"model.norm.weight", "lm_head.weight"}


def test_patterns_match_from_the_start_of_the_name():
    names = trained(five(), unfrozen_parameters=[r"model\.layers\.[34]\.mlp", r"^lm_head.weight$"])
    assert len(names) == 7
    assert numbers(names - {"lm_head.weight"}) == {3, 4}


@pytest.mark.parametrize("keys", [{"unfrozen_parameters": ["lm_head"]}, {"freeze_extra_modules": ["lm_head"]}])
def test_the_head_of_a_tied_model_is_its_embedding(keys):
    model = tiny("tied")
    assert "model.embed_tokens.weight" in trained(model, **keys)
    assert model.lm_head.weight.requires_grad


@pytest.mark.parametrize("family", ["gpt2", "neox", "gemma3", "experts"])
def test_every_family_has_layers(family):
    model = tiny(family)
    names = trained(model, freeze_trainable_layers=-1)
    first = {name for name, _ in model.named_parameters() if ".0." in name}
    assert names
    assert names <= first


def test_no_gradient_is_computed_below_the_layers_that_train():
    model = tiny("llama")
    freeze.apply(model, freeze.Config(freeze_trainable_layers=1))
    seen = {}
    for number, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda _, __, out, n=number: seen.update({n: out.requires_grad}))
    model(input_ids=torch.tensor([[3, 1, 4]]), use_cache=False)
    assert seen == {0: False, 1: True}


def test_a_head_of_values_trains_with_the_layers(tmp_path):
    assert "score.weight" in trained(reward(base(tmp_path / "base")), freeze_trainable_layers=1)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"freeze_trainable_layers": 6}, "6; -5 to 5: the model has so many layers"),
        ({"freeze_trainable_layers": -6}, "-6; -5 to 5"),
        ({"freeze_trainable_layers": 0}, "0, and nothing else trains"),
        ({"freeze_trainable_modules": ["mpl"]}, r"'mpl' names nothing .*mlp.*did you mean 'mlp'"),
        ({"freeze_extra_modules": ["lmhead"]}, r"'lmhead' names none; .*did you mean 'lm_head'"),
        (
            {"unfrozen_parameters": ["layers"]},
            "'layers' matches no parameter; patterns that names begin with, such as model",
        ),
        ({"unfrozen_parameters": ["(("]}, "no regular expression"),
        (
            {"unfrozen_parameters": ["lm_head"], "freeze_trainable_layers": 2},
            "unfrozen_parameters says what trains already",
        ),
        ({"unfrozen_parameters": ["lm_head"], "freeze_extra_modules": ["norm"]}, "says what trains already"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_touched(keys, said):
    model = five()
    with pytest.raises(RecipeError, match=said):
        freeze.apply(model, freeze.Config(**keys))
    assert all(p.requires_grad for p in model.parameters())
