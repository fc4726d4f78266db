# SPDX-License-Identifier: Apache-2.0
"""(IA)^3 equals PEFT's IA3, both ways, in outputs, files, gradients and merged weights."""

from __future__ import annotations

import json

import pytest
import torch
from peft import IA3Config, PeftModel, get_peft_model
from tests.folders import IDS, TOLERANCE, logits, read_back, shapes
from tests.reward import shake
from tests.tiny import tiny

from luthier.core.errors import ModelError, RecipeError
from luthier.core.types import Segment, Tree
from luthier.export.adapter import load_adapter
from luthier.kernels.forest import plant
from luthier.methods import ia3
from luthier.models import scored_logprobs

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

USUAL = {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
GPT2 = {"target_modules": ["attn.c_proj", "mlp.c_proj"]}  # PEFT wants feedforward_modules spelt as among the targets
# (family, Luthier's keys, PEFT's where they differ); an empty PEFT side is PEFT's own choice for the architecture
CASES = [
    ("llama", {}, {}),
    ("tied", {}, {}),
    ("gpt2", {}, {}),
    ("neox", {}, {}),
    ("qwen2", {}, USUAL),
    ("gemma3", {}, USUAL),
    ("llama", {"target_modules": ["q_proj", "up_proj"], "feedforward_modules": []}, {}),
    ("qwen2", {"target_modules": ["q_proj", "up_proj", "gate_proj"], "feedforward_modules": ["up_proj", "q_proj"]}, {}),
    ("llama", {"target_modules": r".*\.1\..*(q|down)_proj", "feedforward_modules": r".*down_proj"}, {}),
    ("gpt2", {"target_modules": ["c_proj"], "feedforward_modules": ["attn.c_proj"]}, GPT2),
    ("llama", {"target_modules": "all-linear"}, {"target_modules": "all-linear", "feedforward_modules": ["down_proj"]}),
    ("llama", {"exclude_modules": ["v_proj"]}, {**USUAL, "exclude_modules": ["v_proj"]}),
    ("tied", {"modules_to_save": ["lm_head"]}, {**USUAL, "modules_to_save": ["lm_head"]}),
]
each = pytest.mark.parametrize(("family", "ours", "theirs"), CASES)


@each
def test_peft_loads_what_is_written_here(family, ours, theirs, tmp_path):
    model = tiny(family)
    before = logits(model)
    trainable = ia3.apply(model, ia3.Config(**ours))
    shake(trainable.parameters().values())
    trainable.save(tmp_path)
    here, there = logits(model), PeftModel.from_pretrained(tiny(family), tmp_path)
    assert (here - before).abs().max() > 0.02
    assert (logits(there) - here).abs().max() <= TOLERANCE
    with trainable.disabled():
        assert torch.equal(logits(model), before)
    merged = trainable.merge()
    assert (logits(merged) - here).abs().max() <= TOLERANCE
    if "modules_to_save" not in ours:
        theirs_merged = dict(there.merge_and_unload().named_parameters())
        for name, parameter in merged.named_parameters():
            assert (parameter - theirs_merged[name]).abs().max() <= 1e-6, name


@each
def test_what_peft_writes_loads_here(family, ours, theirs, tmp_path):
    made = get_peft_model(tiny(family), IA3Config(**(ours | theirs), task_type="CAUSAL_LM"))
    shake([p for p in made.parameters() if p.requires_grad])
    trainable = read_back(made, tiny(family), tmp_path)
    assert shapes(ia3.apply(tiny(family), ia3.Config(**ours))) == shapes(trainable)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradients_equal_peft(family, tmp_path):
    model = tiny(family)
    trainable = ia3.apply(model, ia3.Config())
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
        there = wanted.pop(f"base_model.model.{name}.default")
        assert (parameter.grad - there).abs().max() <= TOLERANCE * max(1.0, float(there.abs().max())), name
    assert not wanted


def test_vectors_are_float32_beside_a_bfloat16_base(tmp_path):
    trainable = ia3.apply(tiny("llama").bfloat16(), ia3.Config())
    assert {p.dtype for p in trainable.parameters().values()} == {torch.float32}
    shake(trainable.parameters().values())
    trainable.save(tmp_path)
    there = PeftModel.from_pretrained(tiny("llama").bfloat16(), tmp_path)
    here = logits(trainable.model)
    assert here.dtype == torch.bfloat16
    assert torch.equal(here, logits(there))


@pytest.mark.parametrize(
    ("family", "keys", "said"),
    [
        ("llama", {"target_modules": ["lm_head"]}, "lm_head, the head; linears inside the model"),
        ("llama", {"target_modules": ["embed_tokens"]}, "embed_tokens, a Embedding; linears"),
        ("llama", {"target_modules": ["k_prj"]}, "did you mean 'k_proj'"),
        (
            "llama",
            {"feedforward_modules": ["up_proj"]},
            "'up_proj' matches none of the targets; among down_proj, k_proj",
        ),
        ("llama", {"feedforward_modules": "(("}, "no regular expression"),
        ("experts", {}, "holds all experts in one; linears for keys, values"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_touched(family, keys, said):
    model = tiny(family)
    before = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    with pytest.raises(RecipeError, match=said):
        ia3.apply(model, ia3.Config(**keys))
    assert {name: (id(p), p.requires_grad) for name, p in model.named_parameters()} == before


def test_a_folder_that_does_not_fit_is_refused(tmp_path):
    ia3.apply(tiny("llama"), ia3.Config()).save(tmp_path)
    file = tmp_path / "adapter_config.json"
    told = json.loads(file.read_text())
    wrongs = {
        "surprise: 3; \\(IA\\)": {"surprise": 3},
        "feedforward_modules: null": {"feedforward_modules": None},
        "a vector on lm_head, a Linear": {"target_modules": ["lm_head"]},
        "has shape": {"feedforward_modules": ["k_proj"]},
    }
    for said, wrong in wrongs.items():
        file.write_text(json.dumps(told | wrong))
        with pytest.raises(ModelError, match=said):
            load_adapter(tiny("llama"), tmp_path)
