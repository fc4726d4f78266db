# SPDX-License-Identifier: Apache-2.0
"""LoRA's gradients and numbers beside PEFT's, and a real adapter."""

from __future__ import annotations

import copy
from pathlib import Path

import peft
import pytest
import torch
from peft import PeftModel
from tests.parity.lora_cases import IDS, TOLERANCE, logits_of, our_config, shake
from tests.tiny import tiny

from luthier.core.types import Segment, Tree
from luthier.export.adapter import load_adapter
from luthier.kernels.forest import plant
from luthier.methods import lora
from luthier.models import scored_logprobs

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]  # PEFT warns about ties, fan_in_fan_out, names


def _name_here(name: str) -> str:
    """PEFT's parameter name in a model as Luthier's."""
    name = name.removeprefix("base_model.model.").replace("modules_to_save.default.", "")
    return name.replace("_vector.default.weight", "_vector").replace(".default", "")


GRADIENTS = [
    ("llama", "all-linear"),
    ("llama", "embedding and head"),
    ("llama", "whole head and embedding"),
    ("tied", "whole head"),
    ("tied", "embedding"),
    ("tied", "head"),
    ("qwen2", "everything"),
    ("qwen2", "all biases"),
    ("gpt2", "whole norm beside biases"),
    ("gpt2", "embeddings, GPT-2"),
    ("neox", "lora_only biases"),
    ("gemma3", "embedding"),
    ("qwen2", "dora"),
    ("gpt2", "dora"),
    ("llama", "dora of embedding and head"),
]


@pytest.mark.parametrize(("arch", "name"), GRADIENTS)
def test_gradients_equal_peft(arch, name, tmp_path):
    """One step's gradient, Luthier's forest and head kernel against PEFT and cross-entropy."""
    settings = our_config(name).model_copy(update={"lora_dropout": 0.0})
    model = tiny(arch)
    trainable = lora.apply(model, settings)
    shake(trainable.parameters().values())
    trainable.save(tmp_path)
    theirs = PeftModel.from_pretrained(tiny(arch), tmp_path, is_trainable=True).train()
    logits = theirs(input_ids=IDS, use_cache=False).logits[0, :-1]
    torch.nn.functional.cross_entropy(logits, IDS[0, 1:], reduction="sum").backward()

    model.train()
    loss, _ = _forest_loss(model)
    loss.backward()
    wanted = {_name_here(n): p.grad for n, p in theirs.named_parameters() if p.requires_grad and p.grad is not None}
    got = {n: p.grad for n, p in trainable.parameters().items()}
    assert got.keys() == wanted.keys()
    for key, gradient in got.items():
        scale = max(1.0, float(wanted[key].abs().max()))
        assert (gradient - wanted[key]).abs().max() <= TOLERANCE * scale, key


def _forest_loss(model) -> tuple[torch.Tensor, torch.Tensor]:
    model.set_attn_implementation("luthier")
    ids = IDS[0].numpy().astype("int32")
    logps = scored_logprobs(model, plant([Tree(segments=(Segment(ids=ids, scored=ids >= 0),))]))
    return -logps.sum(), logps


def test_a_tied_update_gets_both_ends_gradients(tmp_path):
    """PEFT holds two views of one storage and moves it twice; the true gradient is their sum."""
    model = tiny("tied")
    trainable = lora.apply(model, our_config("tied update"))
    shake(trainable.parameters().values())
    trainable.save(tmp_path)
    theirs = PeftModel.from_pretrained(tiny("tied"), tmp_path, is_trainable=True)
    logits = theirs(input_ids=IDS, use_cache=False).logits[0, :-1]
    torch.nn.functional.cross_entropy(logits, IDS[0, 1:], reduction="sum").backward()
    wanted = {_name_here(n): p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    _forest_loss(model)[0].backward()
    got = {n: p.grad for n, p in trainable.parameters().items()}
    for ours, theirs_too in (("A", "B"), ("B", "A")):
        both = wanted[f"model.embed_tokens.lora_embedding_{ours}"] + wanted[f"lm_head.lora_{theirs_too}.weight"].T
        error = (got[f"model.embed_tokens.lora_embedding_{ours}"] - both).abs().max()
        assert error <= TOLERANCE * float(both.abs().max().clamp_min(1.0))


@pytest.mark.parametrize("name", ["all-linear", "embedding and head"])
def test_bfloat16_base_and_float32_adapter(name, tmp_path):
    """No further from the float32 truth than PEFT is, up to the noise of rounding."""
    trainable = lora.apply(tiny("llama"), our_config(name))
    shake(trainable.parameters().values())
    trainable.save(tmp_path)
    rounded = tiny("llama").to(torch.bfloat16)
    exact = copy.deepcopy(rounded).float()
    load_adapter(exact, tmp_path)
    truth = logits_of(exact)
    here = load_adapter(rounded, tmp_path)
    assert {p.dtype for p in here.parameters().values()} == {torch.float32}
    theirs = PeftModel.from_pretrained(tiny("llama").to(torch.bfloat16), tmp_path)
    ours_off, theirs_off = ((logits_of(m).float() - truth).abs().mean() for m in (rounded, theirs))
    assert logits_of(rounded).dtype == torch.bfloat16
    assert ours_off <= 1.5 * theirs_off + 1e-3
    assert ours_off < 0.03 * truth.abs().mean()


@pytest.mark.parametrize("arch", ["llama", "tied"])
def test_head_update_through_the_kernel(arch):
    """Scored log-probabilities equal the plain logits', with the update, without it, and with a whole head."""
    for name in ("head", "embedding and head", "whole head"):
        model = tiny(arch)
        trainable = lora.apply(model, our_config(name))
        shake(trainable.parameters().values())
        wanted = _logp(logits_of(model))
        assert (_forest_loss(model)[1] - wanted).abs().max() <= TOLERANCE
        with trainable.disabled():
            assert (_forest_loss(model)[1] - _logp(logits_of(tiny(arch)))).abs().max() <= TOLERANCE
        assert (_forest_loss(model)[1] - wanted).abs().max() <= TOLERANCE


def _logp(logits: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits[0, :-1], -1).gather(1, IDS[0, 1:, None])[:, 0]


REAL = Path(__file__).parents[3] / "shared" / "models" / "gpt2-tigrinya-lora"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real adapter is not beside this repository")
def test_a_real_gpt2_adapter():
    from transformers import GPT2Config, GPT2LMHeadModel

    base = GPT2LMHeadModel(GPT2Config())  # GPT-2 small's shape, 124 M random weights
    before = logits_of(base)
    there = logits_of(PeftModel.from_pretrained(copy.deepcopy(base), REAL))
    trainable = load_adapter(base, REAL)
    here = logits_of(base)
    assert len(trainable.parameters()) == 72
    assert (here - before).abs().max() > 0.01
    assert (here - there).abs().max() <= TOLERANCE


def test_peft_is_the_version_whose_rules_are_followed():
    assert tuple(map(int, peft.__version__.split(".")[:2])) >= (0, 21)
