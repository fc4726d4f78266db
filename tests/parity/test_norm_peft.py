# SPDX-License-Identifier: Apache-2.0
"""Norm tuning equals PEFT's LN_TUNING, both ways, in outputs, files and gradients."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LNTuningConfig, PeftModel, get_peft_model
from tests.folders import IDS, TOLERANCE, logits, read_back
from tests.reward import shake
from tests.tiny import tiny

from luthier.core.errors import ModelError, RecipeError
from luthier.core.types import Segment, Tree
from luthier.export.adapter import load_adapter
from luthier.kernels.forest import plant
from luthier.methods import norm
from luthier.models import scored_logprobs
from luthier.models.fuse import fuse

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

LLAMA = ["input_layernorm", "post_attention_layernorm", "norm"]
GEMMA = ["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"]
# (family, Luthier's keys, PEFT's where they differ)
CASES = [
    ("llama", {}, {"target_modules": LLAMA}),
    ("tied", {"target_modules": ["input_layernorm"]}, {}),
    ("qwen2", {"target_modules": r".*layers\.1\..*norm"}, {}),
    ("gpt2", {}, {"target_modules": ["ln_1", "ln_2", "ln_f"]}),
    ("neox", {"target_modules": ["input_layernorm", "final_layer_norm"]}, {}),
    ("gemma3", {}, {"target_modules": [*GEMMA, "q_norm", "k_norm", "norm"]}),
    ("llama", {"exclude_modules": ["model.norm"]}, {"target_modules": LLAMA[:2]}),
    ("llama", {"target_modules": ["input_layernorm"], "modules_to_save": ["lm_head"]}, {}),
    ("tied", {"target_modules": ["norm"], "modules_to_save": ["embed_tokens"]}, {}),
    ("experts", {"target_modules": ["post_attention_layernorm"]}, {}),
]
each = pytest.mark.parametrize(("family", "ours", "theirs"), CASES)


@each
def test_peft_loads_what_is_written_here(family, ours, theirs, tmp_path):
    model = tiny(family)
    fuse(model)
    before = logits(model)
    trainable = norm.apply(model, norm.Config(**ours))
    shake(trainable.parameters().values())
    trainable.save(tmp_path)
    here = logits(model)
    assert (here - before).abs().max() > 0.05
    assert (logits(PeftModel.from_pretrained(tiny(family), tmp_path)) - here).abs().max() <= TOLERANCE
    with trainable.disabled():
        assert torch.equal(logits(model), before)
    assert torch.equal(logits(trainable.merge()), here)


@each
def test_what_peft_writes_loads_here(family, ours, theirs, tmp_path):
    made = get_peft_model(tiny(family), LNTuningConfig(**(ours | theirs), task_type="CAUSAL_LM"))
    shake([p for p in made.parameters() if p.requires_grad])
    read_back(made, tiny(family), tmp_path)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradients_equal_peft(family, tmp_path):
    model = tiny(family)
    trainable = norm.apply(model, norm.Config())
    shake(trainable.parameters().values())
    trainable.save(tmp_path)
    theirs = PeftModel.from_pretrained(tiny(family), tmp_path, is_trainable=True).train()
    out = theirs(input_ids=IDS, use_cache=False).logits[0, :-1]
    torch.nn.functional.cross_entropy(out, IDS[0, 1:], reduction="sum").backward()
    model.train().set_attn_implementation("luthier")
    ids = IDS[0].numpy().astype("int32")
    (-scored_logprobs(model, plant([Tree(segments=(Segment(ids=ids, scored=ids >= 0),))])).sum()).backward()
    wanted = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    for name, parameter in trainable.parameters().items():
        there = wanted.pop("base_model.model." + name.replace("ln_tuning_layers", "ln_tuning_layers.default"))
        assert (parameter.grad - there).abs().max() <= TOLERANCE * max(1.0, float(there.abs().max())), name
    assert not wanted


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"target_modules": ["input_layernom"]},
            r"matches no norm; the model's norms end in .*did you mean 'input_layern",
        ),
        ({"target_modules": "norm"}, r"a name ending goes into a list: \[norm\]"),
        ({"target_modules": ["q_proj"]}, "'q_proj' matches no norm"),
        ({"target_modules": "(("}, "no regular expression"),
        ({"exclude_modules": LLAMA}, "no norm is left to train"),
        ({"target_modules": ["norm"], "modules_to_save": ["norm"]}, "target_modules names too"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_touched(keys, said):
    model = tiny("llama")
    before = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    with pytest.raises(RecipeError, match=said):
        norm.apply(model, norm.Config(**keys))
    assert {name: (id(p), p.requires_grad) for name, p in model.named_parameters()} == before


def test_a_folder_that_does_not_fit_is_refused(tmp_path):
    norm.apply(tiny("llama"), norm.Config()).save(tmp_path)
    with pytest.raises(ModelError, match="matches no layer; the base it was trained on"):
        load_adapter(tiny("gpt2"), tmp_path)
    file = tmp_path / "adapter_config.json"
    told = json.loads(file.read_text())
    for wrong, said in (
        ({"surprise": 3}, "surprise: 3; norm tuning"),
        ({"target_modules": None}, "target_modules: null"),
    ):
        file.write_text(json.dumps(told | wrong))
        with pytest.raises(ModelError, match=said):
            load_adapter(tiny("llama"), tmp_path)
