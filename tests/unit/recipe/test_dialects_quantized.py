# SPDX-License-Identifier: Apache-2.0
"""Quantised bases in recipes of other tools: what each of their keys becomes, with the tool's own defaults."""

from __future__ import annotations

import pytest
from tests.unit.recipe.foreign_recipes import SHARED

from luthier.core import registry
from luthier.recipe import load_recipe
from luthier.recipe.dialects._draft import Asked

HANDBOOK = SHARED / "recipes-alignment-handbook"
TRL = {"model_name_or_path": "m", "dataset_name": "rows", "use_peft": True, "learning_rate": 1e-4, "trainer": "sft"}
FACTORY = {"model_name_or_path": "m", "stage": "sft", "dataset": "alpaca", "template": "vicuna"}
AXOLOTL = {"base_model": "m", "datasets": [{"path": "x", "type": "alpaca"}], "micro_batch_size": 1, "adapter": "lora"}
BARE = {"trl": TRL, "llamafactory": FACTORY, "axolotl": AXOLOTL}


def model_of(name, keys):
    asked = Asked(places=frozenset({"data.train"}))  # rows are another matter
    found = registry.get("recipe.dialects", name).translate(BARE[name] | keys, asked)
    model = found.tree["model"]
    return model.get("quantization"), model.get("bnb_4bit_use_double_quant"), found


@pytest.mark.parametrize(
    ("name", "keys", "wanted"),
    [
        ("trl", {}, (None, None)),
        ("trl", {"load_in_4bit": False, "load_in_8bit": False, "use_bnb_nested_quant": True}, (None, None)),
        ("trl", {"load_in_4bit": True}, ("nf4", False)),
        ("trl", {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "use_bnb_nested_quant": True}, ("fp4", True)),
        ("trl", {"load_in_4bit": True, "bnb_4bit_use_double_quant": True}, ("nf4", True)),
        ("trl", {"load_in_8bit": True}, ("int8", None)),
        ("llamafactory", {"double_quantization": True}, (None, None)),
        ("llamafactory", {"quantization_bit": 4, "quantization_method": "bnb"}, ("nf4", True)),
        (
            "llamafactory",
            {"quantization_bit": 4, "quantization_type": "fp4", "double_quantization": False},
            ("fp4", False),
        ),
        ("llamafactory", {"quantization_bit": 8}, ("int8", None)),
        ("axolotl", {"load_in_8bit": False, "load_in_4bit": False}, (None, None)),
        ("axolotl", {"adapter": "qlora", "load_in_4bit": True}, ("nf4", True)),
        ("axolotl", {"adapter": "qlora"}, ("nf4", True)),
        ("axolotl", {"load_in_8bit": True}, ("int8", None)),
        (
            "axolotl",
            {"load_in_4bit": True, "bnb_config_kwargs": {"bnb_4bit_use_double_quant": False}},
            ("nf4", False),
        ),
    ],
)
def test_what_a_base_is_quantised_to(name, keys, wanted):
    *got, found = model_of(name, keys)
    assert tuple(got) == wanted
    assert not found.refused
    assert found.tree["method"]["name"] == "lora"


@pytest.mark.parametrize(
    ("name", "keys", "text"),
    [
        ("trl", {"load_in_4bit": True, "load_in_8bit": True}, "load_in_8bit: true, beside load_in_4bit"),
        ("trl", {"load_in_4bit": True, "bnb_4bit_quant_type": "int4"}, "bnb_4bit_quant_type: received 'int4'"),
        ("llamafactory", {"quantization_bit": 3}, "quantization_bit: received 3"),
        ("llamafactory", {"quantization_bit": 4, "quantization_method": "hqq"}, "quantization_method: received 'hqq'"),
        ("axolotl", {"load_in_4bit": True, "bnb_config_kwargs": {"x": 1}}, "bnb_config_kwargs: received {'x': 1}"),
    ],
)
def test_what_is_refused(name, keys, text):
    *_, found = model_of(name, keys)
    assert [str(error)[: len(text)] for error in found.refused] == [text]


def test_a_full_run_on_a_quantised_base_is_refused_before_anything_is_loaded():
    with pytest.raises(ValueError, match="a quantised base, whose matrices cannot move"):
        load_recipe(TRL | {"use_peft": False, "load_in_4bit": True})


@pytest.mark.skipif(not HANDBOOK.is_dir(), reason="the handbook's recipes are not here")
def test_the_handbooks_qlora_recipes_train_in_four_bits():
    files = [file for file in HANDBOOK.rglob("*qlora*.yaml") if "load_in_4bit: true" in file.read_text()]
    assert files
    for file in files:
        assert load_recipe(file, ["push_to_hub=false", "optim=adamw_torch"]).recipe.model.quantization == "nf4"
