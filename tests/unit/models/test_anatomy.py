# SPDX-License-Identifier: Apache-2.0
"""What `luthier inspect` says is what is so: counts against the real model and against the method's own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parity.families import COMMON, PROVEN, REFUSED
from transformers import AutoConfig, AutoModelForCausalLM

from luthier.cli import main
from luthier.core.errors import ModelError
from luthier.methods import lora
from luthier.models.anatomy import Anatomy, dissect

EVERY = {**PROVEN, **{name: (kind, settings) for name, (kind, settings, _) in REFUSED.items()}}


def configured(folder: Path, name: str) -> str:
    """A folder with nothing but a configuration."""
    kind, settings = EVERY[name]
    AutoConfig.for_model(kind, **(COMMON | settings)).save_pretrained(folder)
    return str(folder)


def run(*words: str) -> int | str:
    try:
        main(list(words))
    except SystemExit as stopped:
        return stopped.code or 0
    return 0


def choice(anatomy: Anatomy, words: str | tuple[str, ...]) -> Any:
    return next(one for one in anatomy.choices if one.target_modules == words)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # GPT-BigCode of transformers 5.17
@pytest.mark.parametrize("name", EVERY)
def test_every_family_can_be_inspected(name: str, tmp_path: Path) -> None:
    anatomy = dissect(configured(tmp_path, name), r=2)
    kind, settings = EVERY[name]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(COMMON | settings)))
    assert anatomy.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert sum(part.parameters for part in anatomy.parts) == anatomy.parameters
    assert {"embedding", "head"} <= {part.kind for part in anatomy.parts}
    assert anatomy.choices


@pytest.mark.parametrize(
    "name", ["Llama", "GPT-2", "GPT-NeoX, Pythia", "Falcon", "Llama, tied head", "Phi", "DeepSeek-V3"]
)
def test_choices_train_what_the_method_trains(name: str, tmp_path: Path) -> None:
    anatomy = dissect(configured(tmp_path, name), r=2)
    kind, settings = EVERY[name]
    for one in anatomy.choices:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(COMMON | settings)))
        words = one.target_modules
        config = lora.Config(r=2, target_modules=words, exclude_modules=one.exclude_modules or None)
        assert lora.apply(model, config).num_trainable == one.trained, words
        assert one.disk_bytes == 4 * one.trained
        assert one.training_bytes == 16 * one.trained
        assert one.share == pytest.approx(one.trained / anatomy.parameters)


def test_the_papers_choice_by_family(tmp_path: Path) -> None:
    found = {}
    for number, name in enumerate(["Llama", "GPT-2", "GPT-NeoX, Pythia", "Phi-3, Phi-4", "DeepSeek-V3"]):
        anatomy = dissect(configured(tmp_path / str(number), name), r=2)
        found[name] = [one.target_modules for one in anatomy.choices if one.note]
    assert found == {
        "Llama": [("q_proj", "v_proj")],
        "GPT-2": [("c_attn",)],
        "GPT-NeoX, Pythia": [("query_key_value",)],
        "Phi-3, Phi-4": [("qkv_proj",)],
        "DeepSeek-V3": [("q_b_proj", "kv_b_proj")],
    }


def test_repeated_layers_are_one_line(tmp_path: Path) -> None:
    parts = {part.name: part for part in dissect(configured(tmp_path, "Llama")).parts}
    assert parts["model.layers.0-1.self_attn.k_proj"].shape == (16, 32)
    assert parts["model.layers.0-1.self_attn.k_proj"].count == 2
    assert parts["model.embed_tokens"].kind == "embedding"
    assert parts["lm_head"].kind == "head"
    assert len(parts) == 12


def test_tied_heads_count_once(tmp_path: Path) -> None:
    anatomy = dissect(configured(tmp_path, "Llama, tied head"))
    assert anatomy.tied
    assert {part.name: part.parameters for part in anatomy.parts}["lm_head"] == 0


def test_experts_are_named_as_not_adaptable(tmp_path: Path) -> None:
    anatomy = dissect(configured(tmp_path, "Qwen2-MoE"), r=2)
    experts = [part for part in anatomy.parts if ".experts." in part.name]
    assert {part.name.split(".")[-1] for part in experts} == {"gate_up_proj", "down_proj"}
    assert not any(part.adaptable for part in experts)
    assert choice(anatomy, "all-linear").exclude_modules == ("experts",)
    assert choice(anatomy, "attention").exclude_modules == ()


def test_facts(tmp_path: Path) -> None:
    facts = dissect(configured(tmp_path, "Gemma 2")).facts
    assert {key: facts[key] for key in ("heads", "key_value_heads", "head_size", "window", "windowed_layers")} == {
        "heads": 4,
        "key_value_heads": 2,
        "head_size": 8,
        "window": 5,
        "windowed_layers": 1,
    }
    assert (facts["attention_soft_cap"], facts["logit_soft_cap"]) == (2.0, 3.0)


def test_a_large_model_costs_no_memory(tmp_path: Path) -> None:
    AutoConfig.for_model("llama", hidden_size=8192, intermediate_size=28672, num_hidden_layers=80).save_pretrained(
        tmp_path
    )
    begun = time.perf_counter()
    anatomy = dissect(str(tmp_path))
    assert anatomy.parameters > 60e9
    assert time.perf_counter() - begun < 20


def test_a_rank_that_is_too_large_is_said(tmp_path: Path) -> None:
    assert choice(dissect(configured(tmp_path, "Llama"), r=20), ("k_proj",)).too_small[0].endswith("k_proj")


def test_impossible_configurations(tmp_path: Path) -> None:
    configured(tmp_path, "Llama")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_act": "nonsense"}))
    with pytest.raises(ModelError, match="cannot be built from its configuration"):
        dissect(str(tmp_path))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = configured(tmp_path, "Qwen2-MoE")
    assert run("inspect", folder, "--r", "20") == 0
    said = capsys.readouterr().out
    for words in (
        "Qwen2MoeForCausalLM (qwen2_moe): 29,792 parameters; head and embedding are two matrices",
        "2 layers of 32, vocabulary 120, 4 heads of 8, 2 key-value heads",
        "model.layers.0-1.self_attn.q_proj",
        "not adaptable by LoRA yet: model.layers.0-1.mlp.experts.gate_up_proj",
        "[q_proj, v_proj]",
        "queries and values, as in the LoRA paper",
        "with exclude_modules: [experts]",
        "r = 20 is too large for model.layers.0.self_attn.k_proj",
    ):
        assert words in " ".join(said.split()), words


def test_the_command_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", configured(tmp_path, "Llama"), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parameters"] == 23_200
    assert {"facts", "parts", "choices", "tied", "architecture"} <= set(told)
    assert torch.zeros(told["parts"][0]["shape"]).numel() == told["parts"][0]["parameters"]


def test_the_command_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "./nowhere") == 2
    assert "no such folder" in capsys.readouterr().err
