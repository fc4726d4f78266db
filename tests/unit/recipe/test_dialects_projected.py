# SPDX-License-Identifier: Apache-2.0
"""GaLore and APOLLO in other tools' recipes: optimisers of transformers' with arguments, LLaMA-Factory's switches."""

from __future__ import annotations

import pytest
from tests.unit.recipe.foreign_recipes import AXOLOTL, LLAMAFACTORY, TRL_SFT

from luthier.core.errors import RecipeError
from luthier.recipe import load_recipe
from luthier.recipe.dialects import axolotl, llamafactory, trl
from luthier.recipe.text import parse

TARGETS = {"optim_target_modules": ["attn", "mlp"]}


def from_trl(**keys):
    return trl.translate({"model_name_or_path": "m", "dataset_name": "d", "learning_rate": 1e-4, **keys})


@pytest.mark.parametrize(
    ("optim", "method", "inner", "layerwise"),
    [
        ("galore_adamw", "galore", "adamw", False),
        ("galore_adamw_8bit", "galore", "adamw_8bit", False),
        ("galore_adafactor_layerwise", "galore", "adafactor", True),
        ("apollo_adamw", "apollo", "adamw", False),
        ("apollo_adamw_layerwise", "apollo", "adamw", True),
    ],
)
def test_the_optimisers_of_transformers(optim, method, inner, layerwise):
    found = from_trl(optim=optim, **TARGETS)
    assert found.refused == ()
    assert found.tree["optim"]["optim"] == inner
    wanted = {"name": method, "target_modules": ["attention", "mlp"]} | ({"layerwise": True} if layerwise else {})
    assert found.tree["method"] == wanted
    assert (found.tree["optim"].get("max_grad_norm") == 0.0) is layerwise
    assert "optim" in found.moved["method.name"]


@pytest.mark.parametrize(
    "given", ["rank=64, update_proj_gap=100,scale=2", {"rank": 64, "update_proj_gap": 100, "scale": 2}]
)
def test_their_arguments(given):
    found = from_trl(optim="galore_adamw", optim_args=given, optim_target_modules="all-linear")
    assert found.tree["method"] == {
        "name": "galore",
        "target_modules": "all-linear",
        "rank": 64,
        "update_proj_gap": 100,
        "scale": 2.0,
    }


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"optim": "galore_adamw"}, "optim_target_modules: missing; whose gradients are projected"),
        (
            {"optim": "galore_adamw", **TARGETS, "optim_args": "rnak=4"},
            "optim_args: unknown argument 'rnak'; known: rank",
        ),
        ({"optim": "galore_adamw", **TARGETS, "optim_args": "rank=many"}, "optim_args: rank='many'"),
        ({"optim": "galore_adamw", **TARGETS, "optim_args": 3}, "optim_args: received 3"),
        ({"optim": "apollo_adamw", **TARGETS, "optim_args": "proj_type=full"}, "optim_args: proj_type is 'full'"),
        ({"optim": "adamw_torch", **TARGETS}, "optim_target_modules: received "),
        ({"optim": "galore_adamw", **TARGETS, "use_peft": True}, "optim: received 'galore_adamw'"),
        ({"optim": "apollo_adamw_layerwise", **TARGETS, "max_grad_norm": 1.0}, "max_grad_norm: 1.0"),
    ],
)
def test_refusals(keys, text):
    assert any(text in str(error) for error in from_trl(**keys).refused), from_trl(**keys).refused


def test_axolotl():
    found = axolotl.translate({"base_model": "m", "optimizer": "galore_adamw_8bit", **TARGETS, "optim_args": "rank=8"})
    assert found.tree["method"] == {"name": "galore", "target_modules": ["attention", "mlp"], "rank": 8}
    assert found.tree["optim"]["optim"] == "adamw_8bit"
    assert not [error for error in found.refused if "optim" in error.where]
    with pytest.raises(RecipeError, match="optimizer: received 'galore_adamw'"):
        load_recipe(parse(AXOLOTL) | {"optimizer": "galore_adamw"})


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        (
            {"use_galore": True, "galore_rank": 64, "galore_scale": 2, "galore_target": "q_proj, mlp"},
            {"name": "galore", "rank": 64, "scale": 2.0, "target_modules": ["q_proj", "mlp"], "update_proj_gap": 200}
            | {"proj_type": "std", "layerwise": False},
        ),
        (
            {"use_apollo": True, "apollo_scale_type": "tensor", "apollo_rank": 1, "apollo_layerwise": True},
            {"name": "apollo", "rank": 1, "scale": 32.0, "target_modules": "all-linear", "update_proj_gap": 200}
            | {"proj": "random", "scale_type": "tensor", "layerwise": True},
        ),
    ],
)
def test_llamafactory(keys, wanted):
    found = llamafactory.translate({"model_name_or_path": "m", "stage": "sft", "finetuning_type": "full", **keys})
    assert found.tree["method"] == wanted
    assert not [error for error in found.refused if "galore" in error.where or "apollo" in error.where]


def test_such_recipes_load():
    tree = {key: value for key, value in parse(TRL_SFT).items() if not key.startswith(("lora", "use_peft"))}
    assert load_recipe(tree | {"optim": "galore_adamw", **TARGETS}).recipe.method["name"] == "galore"
    tree = {key: value for key, value in parse(LLAMAFACTORY).items() if not key.startswith("lora")}
    with pytest.raises(RecipeError, match=r"use_apollo: received true .*; true for one of the two"):
        load_recipe(tree | {"finetuning_type": "full", "use_galore": True, "use_apollo": True})
