# SPDX-License-Identifier: Apache-2.0
"""LoRA equals PEFT, both ways: what Luthier writes computes the same in PEFT, and what PEFT writes the same here.

Every tensor that trains is drawn at random first: with B = 0 any two adapters agree.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from tests.parity.lora_cases import SETTINGS, TOLERANCE, logits_of, our_config, shake
from tests.tiny import tiny

from luthier.export.adapter import load_adapter
from luthier.methods import lora

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]  # PEFT warns about ties, fan_in_fan_out, names

CASES = [pytest.param(arch, name, id=f"{arch}: {name}") for name, (archs, _, _) in SETTINGS.items() for arch in archs]


def their_config(name: str) -> LoraConfig:
    return LoraConfig(**({"r": 4, "lora_alpha": 16, "task_type": "CAUSAL_LM"} | SETTINGS[name][1] | SETTINGS[name][2]))


def written_by_peft(arch: str, config: LoraConfig, folder: Path) -> torch.Tensor:
    theirs = get_peft_model(tiny(arch), config)
    trained = {
        id(p): p for p in theirs.parameters() if p.requires_grad
    }  # PEFT's tied matrices are views of one another
    shake(trained.values())
    theirs.save_pretrained(folder)
    return logits_of(PeftModel.from_pretrained(tiny(arch), folder))


@pytest.mark.parametrize(("arch", "name"), CASES)
def test_peft_loads_what_is_written_here(arch, name, tmp_path):
    model = tiny(arch)
    before = logits_of(model)
    trainable = lora.apply(model, our_config(name))
    shake(trainable.parameters().values())
    trainable.save(tmp_path)
    here = logits_of(model)
    there = logits_of(PeftModel.from_pretrained(tiny(arch), tmp_path))
    assert (here - before).abs().max() > 0.05
    assert (here - there).abs().max() <= TOLERANCE

    again = tiny(arch)
    load_adapter(again, tmp_path)
    assert torch.equal(logits_of(again), here)
    with trainable.disabled():
        assert torch.equal(logits_of(model), before)
    assert (logits_of(trainable.merge()) - here).abs().max() <= TOLERANCE


@pytest.mark.parametrize(("arch", "name"), CASES)
def test_what_peft_writes_loads_here(arch, name, tmp_path):
    there = written_by_peft(arch, their_config(name), tmp_path)
    model = tiny(arch)
    load_adapter(model, tmp_path)
    assert (logits_of(model) - there).abs().max() <= TOLERANCE


@pytest.mark.parametrize(("arch", "name"), CASES)
def test_files_hold_the_same_tensors(arch, name, tmp_path):
    lora.apply(tiny(arch), our_config(name)).save(tmp_path / made(tmp_path, "ours"))
    get_peft_model(tiny(arch), their_config(name)).save_pretrained(tmp_path / "theirs")
    ours, theirs = _shapes(tmp_path / "ours"), _shapes(tmp_path / "theirs")
    # PEFT adds the frozen base of adapted embeddings, and each bias of a whole module three times.
    noise = ("base_layer.weight", "original_module.bias", "modules_to_save.bias")
    assert ours == {key: shape for key, shape in theirs.items() if not key.endswith(noise)}


def made(folder: Path, name: str) -> str:
    (folder / name).mkdir()
    return name


def _shapes(folder: Path) -> dict[str, list[int]]:
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 - not a dict


OTHER_SPELLINGS = {
    "one layer as a number": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": 1},
    "layers by pattern": {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "layers"},
    "layers by patterns": {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h", "layers"]},
    "a whole name beside a layer": {
        "target_modules": ["q_proj", "model.layers.0.mlp.up_proj"],
        "layers_to_transform": [1],
    },
    "whole by half a name": {"target_modules": ["q_proj"], "modules_to_save": ["head"]},
    "whole by an ending of several": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "target also whole": {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head"]},
    "exclusions that match nothing": {"target_modules": ["q_proj"], "exclude_modules": ["nothing"]},
    "rank above the layer": {"target_modules": ["k_proj"], "r": 40},
    "drawn at random": {"target_modules": ["q_proj"], "init_lora_weights": False},
    "gaussian": {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
    "orthogonal": {"target_modules": ["q_proj"], "init_lora_weights": "orthogonal"},
    "eva": {"target_modules": ["q_proj"], "init_lora_weights": "eva"},
    "mica": {"target_modules": ["q_proj"], "init_lora_weights": "mica"},
    "tied by a regex": {"target_modules": r"(.*\.)?(embed_tokens|q_proj)", "ensure_weight_tying": True},
    "tying where nothing is tied": {"target_modules": ["q_proj"], "ensure_weight_tying": True},
}


@pytest.mark.parametrize("arch", ["llama", "tied"])
@pytest.mark.parametrize("name", OTHER_SPELLINGS)
def test_spellings_that_only_peft_has(arch, name, tmp_path):
    config = LoraConfig(**({"r": 4, "lora_alpha": 16, "task_type": "CAUSAL_LM"} | OTHER_SPELLINGS[name]))
    there = written_by_peft(arch, config, tmp_path)
    model = tiny(arch)
    load_adapter(model, tmp_path)
    assert (logits_of(model) - there).abs().max() <= TOLERANCE


def test_all_linear_as_a_word_in_the_file(tmp_path):
    there = written_by_peft("llama", LoraConfig(r=4, target_modules="all-linear"), tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": "all-linear"}))
    model = tiny("llama")
    load_adapter(model, tmp_path)
    assert (logits_of(model) - there).abs().max() <= TOLERANCE


def test_what_was_loaded_can_be_written_again(tmp_path):
    there = written_by_peft("tied", their_config("tied update"), tmp_path / "first")
    model = tiny("tied")
    load_adapter(model, tmp_path / "first").save(tmp_path / made(tmp_path, "second"))
    assert (logits_of(PeftModel.from_pretrained(tiny("tied"), tmp_path / "second")) - there).abs().max() <= TOLERANCE


def test_base_weights_in_the_file_count_as_in_peft(tmp_path):
    """PEFT saves the base of an adapted embedding; where someone trained it, both put it into the model."""
    theirs = get_peft_model(tiny("llama"), LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"]))
    with torch.no_grad():
        theirs.get_input_embeddings().base_layer.weight.add_(0.05)
    theirs.save_pretrained(tmp_path)
    model = tiny("llama")
    load_adapter(model, tmp_path)
    assert (logits_of(model) - logits_of(theirs)).abs().max() <= TOLERANCE
    assert (logits_of(model) - logits_of(tiny("llama"))).abs().max() > 0.01
