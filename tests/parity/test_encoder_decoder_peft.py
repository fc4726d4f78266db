# SPDX-License-Identifier: Apache-2.0
"""Methods on encoder-decoders equal PEFT's (PeftModelForSeq2SeqLM), both ways, in logits, files and gradients."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import (
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftModel,
    PeftModelForSeq2SeqLM,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from tests.pairs import pair, tiny_pairs
from tests.reward import shake

from luthier.core import registry
from luthier.export.adapter import load_adapter
from luthier.kernels.forest import plant
from luthier.models import outputs

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 1e-5
SOURCE, TARGET = [3, 4, 5, 6, 7, 8, 9, 2], [10, 11, 12, 2]
FIVE = {"num_virtual_tokens": 5}
ALL = {"target_modules": "all-linear"}
MLP = {"prefix_projection": True, "encoder_hidden_size": 12}
USUAL = {"t5": (["k", "v", "wo"], ["wo"]), "bart": (["k_proj", "v_proj", "fc2"], ["fc2"])}
# method, Luthier's keys (PEFT spells them alike), PEFT's class
KINDS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "lora": ("lora", {"r": 4, "lora_alpha": 8} | ALL, LoraConfig),
    "rslora": ("lora", {"r": 4, "lora_alpha": 8, "use_rslora": True, **ALL}, LoraConfig),
    "dora": ("lora", {"r": 4, "lora_alpha": 8, "use_dora": True, **ALL}, LoraConfig),
    "lora on the head": ("lora", {"r": 4, "lora_alpha": 8, "target_modules": ["lm_head"]}, LoraConfig),
    "lora on embeddings": ("lora", {"r": 4, "lora_alpha": 8, "target_modules": ["embed_tokens"]}, LoraConfig),
    "whole head": ("lora", {"r": 4, "lora_alpha": 8, "modules_to_save": ["lm_head"]} | ALL, LoraConfig),
    "ia3": ("ia3", {}, IA3Config),
    "norm": ("norm", {}, LNTuningConfig),
    "prompt": ("prompt", FIVE, PromptTuningConfig),
    "P-tuning": ("ptuning", FIVE | {"encoder_hidden_size": 24}, PromptEncoderConfig),
    "prefix": ("prefix", FIVE, PrefixTuningConfig),
    "prefix, projected": ("prefix", FIVE | MLP, PrefixTuningConfig),
}
FAMILIES = ["T5", "T5, uneven stacks", "BART"]
families = pytest.mark.parametrize("family", FAMILIES)
kinds = pytest.mark.parametrize("kind", KINDS)


def ours(model: Any, kind: str) -> Any:
    name, keys, _ = KINDS[kind]
    method = registry.get("methods", name)
    trainable = method.apply(model, method.Config(**keys))
    shake(trainable.parameters().values())
    return trainable


def theirs(model: Any, kind: str) -> Any:
    """PEFT's model, adapted as ours is; it has no words for norms and wants the two names of (IA)^3."""
    _, keys, config = KINDS[kind]
    if kind == "ia3":
        keys = dict(zip(("target_modules", "feedforward_modules"), USUAL[model.config.model_type], strict=True))
    if kind == "norm":
        keys = {"target_modules": [name for name, m in model.named_modules() if "Norm" in type(m).__name__]}
    if kind.startswith("prefix"):
        keys = keys | {"num_layers": len(_layers(model))}  # PEFT takes the encoder's number
    made = get_peft_model(model, config(task_type="SEQ_2_SEQ_LM", **keys))
    shake([p for p in made.parameters() if p.requires_grad])
    return made


def _layers(model: Any) -> Any:
    decoder = model.get_decoder()
    return decoder.block if hasattr(decoder, "block") else decoder.layers


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    source, target = torch.tensor([SOURCE]), torch.tensor([TARGET])
    found: torch.Tensor = model.eval()(
        input_ids=source, attention_mask=torch.ones_like(source), labels=target, use_cache=False
    ).logits
    return found[0]


@torch.no_grad()
def in_a_batch(model: Any) -> torch.Tensor:
    """The log-probabilities of the same target, beside longer and shorter rows."""
    rows = [pair([5, 2], [6, 7, 2]), pair(SOURCE, TARGET), pair([8] * 11, [9] * 7)]
    return outputs(model, plant(rows))[3:7]


@families
@kinds
def test_peft_loads_what_is_written_here(family: str, kind: str, tmp_path: Path) -> None:
    model = tiny_pairs(family)
    before = logits(model)
    trainable = ours(model, kind)
    trainable.save(tmp_path)
    here, there = logits(model), PeftModel.from_pretrained(tiny_pairs(family), tmp_path)
    assert isinstance(there, PeftModelForSeq2SeqLM)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["task_type"] == "SEQ_2_SEQ_LM"
    assert (here - before).abs().max() > 0.05
    assert (logits(there) - here).abs().max() <= TOLERANCE * max(1.0, float(here.abs().max()))
    wanted = torch.log_softmax(here, -1).gather(1, torch.tensor(TARGET)[:, None])[:, 0]
    assert (in_a_batch(model) - wanted).abs().max() <= TOLERANCE * 5
    with trainable.disabled():
        assert torch.equal(logits(model), before)


@families
@kinds
def test_what_peft_writes_loads_here(family: str, kind: str, tmp_path: Path) -> None:
    made = theirs(tiny_pairs(family), kind)
    made.save_pretrained(tmp_path)
    there = logits(PeftModel.from_pretrained(tiny_pairs(family), tmp_path))
    model = tiny_pairs(family)
    load_adapter(model, tmp_path)
    assert (logits(model) - there).abs().max() <= TOLERANCE * max(1.0, float(there.abs().max()))
    again = tmp_path / "again"
    again.mkdir()
    trainable = load_adapter(tiny_pairs(family), tmp_path)
    trainable.save(again)
    assert (logits(PeftModel.from_pretrained(tiny_pairs(family), again)) - there).abs().max() <= 1e-4


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3", "norm"])
def test_gradients_equal_peft(kind: str, tmp_path: Path) -> None:
    model = tiny_pairs("BART")
    trainable = ours(model, kind)
    trainable.save(tmp_path)
    there = PeftModel.from_pretrained(tiny_pairs("BART"), tmp_path, is_trainable=True).train()
    source, target = torch.tensor([SOURCE]), torch.tensor([TARGET])
    mask = torch.ones_like(source)
    (there(input_ids=source, attention_mask=mask, labels=target, use_cache=False).loss * len(TARGET)).backward()
    (-outputs(model.train(), plant([pair(SOURCE, TARGET)])).sum()).backward()
    wanted = {n.removeprefix("base_model.model."): p.grad for n, p in there.named_parameters() if p.grad is not None}
    found = {name: p.grad for name, p in trainable.parameters().items() if p.grad is not None}
    assert len(found) == len(wanted)
    assert sorted(float(g.norm()) for g in found.values()) == pytest.approx(
        sorted(float(g.norm()) for g in wanted.values()), rel=1e-3, abs=1e-4
    )


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
@families
def test_gradients_of_virtual_tokens_equal_peft(family: str, kind: str) -> None:
    """Those that PEFT keeps and nobody reads have none."""
    model, there = tiny_pairs(family), theirs(tiny_pairs(family), kind).train()
    (parameter,) = ours(model, kind).parameters().values()
    embedding = there.prompt_encoder["default"].embedding.weight
    parameter.data.copy_(embedding.data[: len(parameter)])
    source, target = torch.tensor([SOURCE]), torch.tensor([TARGET])
    mask = torch.ones_like(source)
    (there(input_ids=source, attention_mask=mask, labels=target, use_cache=False).loss * len(TARGET)).backward()
    (-outputs(model.train(), plant([pair(SOURCE, TARGET)])).sum()).backward()
    assert parameter.grad.abs().max() > 1e-4
    assert (parameter.grad - embedding.grad[: len(parameter)]).abs().max() <= TOLERANCE * 5
    assert not embedding.grad[len(parameter) :].any()


@pytest.mark.parametrize(
    "kind", ["lora", "dora", "lora on the head", "lora on embeddings", "whole head", "ia3", "norm"]
)
@families
def test_merged_weights_say_the_same_also_from_the_disk(family: str, kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM

    model = tiny_pairs(family)
    trainable = ours(model, kind)
    here = logits(model)
    merged = trainable.merge()
    bound = TOLERANCE * max(1.0, float(here.abs().max()))
    assert (logits(merged) - here).abs().max() <= bound
    merged.save_pretrained(tmp_path)
    assert (logits(AutoModelForSeq2SeqLM.from_pretrained(tmp_path)) - here).abs().max() <= bound
