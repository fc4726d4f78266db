# SPDX-License-Identifier: Apache-2.0
"""Values equal transformers' own sequence classifiers in every family, gradients too; adapters equal PEFT's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from tests.parity.families import COMMON, PROVEN
from tests.reward import base, reward, shake
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from luthier.core.errors import ModelError
from luthier.core.types import Segment, Tree
from luthier.export.adapter import load_adapter
from luthier.export.origin import find_origin
from luthier.kernels.forest import Forest, plant
from luthier.methods import lora
from luthier.models.alone import separate_values
from luthier.models.backbone import own_attention
from luthier.models.load import DENSE
from luthier.models.planted import NAME
from luthier.models.probe import leak_size, probe_forest, prove_forest
from luthier.models.values import segment_values

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]  # PEFT and transformers 5.17 warn

TOLERANCE = 1e-5
WITHOUT_A_CLASS = {
    "Gemma 4 (text)",
    "Gemma 4 (text of the multimodal model)",
    "VaultGemma",
    "CodeGen",
    "OLMoE",
    "Cohere",
}
WITHOUT_A_CLASS |= {"Cohere 2", "Granite", "Granite-MoE", "Granite-MoE, shared expert", "GLM-4.5 (MoE)", "MiniMax-M2"}
WITHOUT_A_CLASS |= {"Apertus", "ERNIE 4.5", "NanoChat", "BitNet"}
FAMILIES = [name for name in PROVEN if name not in WITHOUT_A_CLASS]


def build(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The family's tiny sequence classifier with one value, as `load_model` would load it."""
    torch.manual_seed(0)
    kind, settings = PROVEN[name]
    config = AutoConfig.for_model(kind, **(COMMON | settings))
    config.num_labels = 1
    attention = DENSE.get(kind, NAME)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention)
    shake(p for p in model.parameters() if p.ndim == 1)
    return model.to(dtype).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_values_and_gradients_equal_separate_forwards(name: str) -> None:
    model = build(name)
    assert prove_forest(model, name) <= 3 * TOLERANCE  # of the mean size of a value
    assert leak_size(model) > 0.04, "the tiny model hardly reacts to its context: it proves nothing"
    forest = probe_forest(model)
    values, got = _pass(model, forest, alone=False)
    alone, wanted = _pass(model, forest, alone=True)
    assert (values - alone).abs().max() <= TOLERANCE
    assert got.keys() == wanted.keys()
    largest = max(float(grad.norm()) for grad in wanted.values())
    assert float(got["score.weight"].norm()) > 0.01 * largest
    for key, grad in wanted.items():
        assert (got[key] - grad).norm() <= TOLERANCE * max(float(grad.norm()), 1e-2 * largest), key


def _pass(model: PreTrainedModel, forest: Forest, *, alone: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Values, and gradients of their sum, each with a weight of its own so that no two errors cancel."""
    model.zero_grad()
    before = model.config._attn_implementation
    if alone and before == NAME:
        model.set_attn_implementation(own_attention(model))
    values = separate_values(model, forest) if alone else segment_values(model, forest)
    model.set_attn_implementation(before)
    (values.double() * torch.linspace(0.5, 1.5, len(values), dtype=torch.float64)).sum().backward()
    return values.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["Llama", "Gemma 2", "Mixtral"])
def test_bfloat16_is_proven_too(name: str) -> None:
    prove_forest(build(name, torch.bfloat16), name)


# ---------------------------------------------------------------- PEFT

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 58, 9, 7, 31, 12]])
SETTINGS = {
    "all-linear": {},
    "rslora": {"use_rslora": True, "lora_alpha": 4.0},
    "a whole norm besides": {"modules_to_save": ["norm"], "target_modules": ["q_proj"]},
    "the head named too": {"modules_to_save": ["score"], "target_modules": ["q_proj", "up_proj"]},
}


@torch.no_grad()
def _value(model) -> float:
    return float(model.eval()(input_ids=IDS, use_cache=False).logits[0, 0])


def _plain(folder: Path) -> PreTrainedModel:
    """The base as a PEFT user loads it: its head is drawn from wherever torch stands."""
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)


def _forest_value(model: PreTrainedModel) -> float:
    ids = IDS[0].numpy().astype(np.int32)
    with torch.no_grad():
        return float(segment_values(model, plant([Tree(segments=(Segment(ids=ids, scored=ids < 0),))]))[0])


@pytest.mark.parametrize("family", ["llama", "tied", "qwen2"])
@pytest.mark.parametrize("name", SETTINGS)
def test_peft_loads_what_is_written_here(tmp_path: Path, family: str, name: str) -> None:
    folder = base(tmp_path / "base", family)
    model = reward(folder)
    trainable = lora.apply(model, lora.Config(**({"r": 4} | SETTINGS[name])))
    before = _forest_value(model)
    shake(trainable.parameters().values())
    here = _forest_value(model)
    assert abs(here - before) > 0.01
    (tmp_path / "adapter").mkdir()
    trainable.save(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    assert abs(_value(PeftModel.from_pretrained(_plain(folder), tmp_path / "adapter")) - here) <= TOLERANCE
    auto = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter", num_labels=1)
    assert abs(_value(auto) - here) <= TOLERANCE

    again = find_origin(tmp_path / "adapter").load_base(torch.float32)
    load_adapter(again, tmp_path / "adapter")
    assert _forest_value(again.eval()) == here
    assert abs(_forest_value(trainable.merge()) - here) <= TOLERANCE


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("task_type", ["SEQ_CLS", None])
def test_what_peft_writes_loads_here(tmp_path: Path, name: str, task_type: str | None) -> None:
    settings = {"r": 4, "task_type": task_type, "target_modules": "all-linear"} | SETTINGS[name]
    if task_type is None:  # then PEFT leaves the head alone unless it is told
        settings["modules_to_save"] = [*settings.get("modules_to_save", ()), "score"]
        settings |= {"exclude_modules": ["score"]} if settings["target_modules"] == "all-linear" else {}
    folder = base(tmp_path / "base")
    theirs = get_peft_model(_plain(folder), LoraConfig(**settings))
    shake(p for p in theirs.parameters() if p.requires_grad)
    theirs.save_pretrained(tmp_path / "adapter")
    origin = find_origin(tmp_path / "adapter")
    assert origin.task == "SEQ_CLS"
    model = origin.load_base(torch.float32)
    load_adapter(model, tmp_path / "adapter")
    assert abs(_forest_value(model.eval()) - _value(theirs)) <= TOLERANCE


def test_files_hold_the_same_tensors(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    lora.apply(reward(folder), lora.Config(r=4)).save(tmp_path / "ours")
    config = LoraConfig(r=4, task_type="SEQ_CLS", target_modules="all-linear")
    get_peft_model(_plain(folder), config).save_pretrained(tmp_path / "theirs")
    found = []
    for name in ("ours", "theirs"):
        with safe_open(tmp_path / name / "adapter_model.safetensors", "pt") as file:
            found.append({key: file.get_slice(key).get_shape() for key in file.keys()})  # noqa: SIM118 - not a dict
    assert found[0] == found[1]


def test_several_labels_are_known_from_the_file(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    plain = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    theirs = get_peft_model(plain, LoraConfig(r=4, task_type="SEQ_CLS", target_modules=["q_proj"]))
    shake(p for p in theirs.parameters() if p.requires_grad)
    theirs.save_pretrained(tmp_path / "adapter")
    model = find_origin(tmp_path / "adapter").load_base(torch.float32)
    load_adapter(model, tmp_path / "adapter")
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        wanted, got = (one.eval()(input_ids=IDS, use_cache=False).logits for one in (theirs, model))
    assert got.shape == (1, 3)
    assert (got - wanted).abs().max() <= TOLERANCE


def test_an_adapter_without_its_head_is_refused(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    theirs = get_peft_model(_plain(folder), LoraConfig(r=4, target_modules=["q_proj"]))
    theirs.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"no weights for the head of values \(score.weight\), and none in its base"):
        load_adapter(reward(folder), tmp_path / "adapter")
