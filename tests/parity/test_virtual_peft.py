# SPDX-License-Identifier: Apache-2.0
"""Virtual tokens equal PEFT's, both ways: prompt tuning, P-tuning and prefix tuning, files and functions."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from tests.tiny import tiny
from transformers import AutoModelForSequenceClassification

from luthier.core import registry
from luthier.core.types import Segment, Tree
from luthier.export.adapter import load_adapter
from luthier.kernels.forest import plant
from luthier.methods import prompt
from luthier.models import scored_logprobs, segment_values

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]  # PEFT warns about positions and layers

TOLERANCE = 1e-5
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 58, 9, 7, 0, 31, 12]])
FAMILIES = ("llama", "gpt2", "qwen2", "gemma3", "neox")
LSTM = {"encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 12}
# method, Luthier's keys (PEFT spells them alike), PEFT's class
KINDS = {
    "prompt": ("prompt", {}, PromptTuningConfig),
    "P-tuning": ("ptuning", {"encoder_hidden_size": 24}, PromptEncoderConfig),
    "P-tuning, LSTM": ("ptuning", LSTM, PromptEncoderConfig),
    "prefix": ("prefix", {}, PrefixTuningConfig),
    "prefix, projected": ("prefix", {"prefix_projection": True, "encoder_hidden_size": 12}, PrefixTuningConfig),
}
kinds = pytest.mark.parametrize("kind", KINDS)
families = pytest.mark.parametrize("family", FAMILIES)


def _base(family: str):
    """PEFT cuts a prefix by this key, which the settings of `tests.tiny` give to models that do not have it."""
    model = tiny(family)
    if family in ("gpt2", "neox"):
        del model.config.num_key_value_heads
    return model


def _ours(model, kind: str, **more):
    name, keys, _ = KINDS[kind]
    method = registry.get("methods", name)
    return method.apply(model, method.Config(num_virtual_tokens=5, **keys, **more))


def _theirs(model, kind: str):
    _, keys, config = KINDS[kind]
    return get_peft_model(model, config(num_virtual_tokens=5, task_type="CAUSAL_LM", **keys))


@torch.no_grad()
def _logits(model) -> torch.Tensor:
    """Of the tokens alone: PEFT gives those of the virtual tokens' embeddings too."""
    model.eval()
    return model(input_ids=IDS, use_cache=False).logits[:, -IDS.shape[1] :]


@torch.no_grad()
def _in_a_forest(model) -> torch.Tensor:
    """The log-probabilities of the same tokens, beside another tree."""
    model.set_attn_implementation("luthier")
    ids = [one.numpy().astype("int32") for one in (IDS[0, :7].flip(0), IDS[0])]
    trees = [Tree(segments=(Segment(ids=one, scored=one >= 0),)) for one in ids]
    return scored_logprobs(model, plant(trees))[6:]


@families
@kinds
def test_peft_loads_what_is_written_here(family, kind, tmp_path):
    model = _base(family)
    before = _logits(model)
    trainable = _ours(model, kind)
    trainable.save(tmp_path)
    here = _logits(model)
    there = _logits(PeftModel.from_pretrained(_base(family), tmp_path))
    assert (here - before).abs().max() > 0.05
    assert (here - there).abs().max() <= TOLERANCE
    wanted = torch.log_softmax(there[0, :-1], -1).gather(1, IDS[0, 1:, None])[:, 0]
    assert (_in_a_forest(model) - wanted).abs().max() <= TOLERANCE


@families
@kinds
def test_what_peft_writes_loads_here(family, kind, tmp_path):
    _theirs(_base(family), kind).save_pretrained(tmp_path)
    there = _logits(PeftModel.from_pretrained(_base(family), tmp_path))
    model = _base(family)
    load_adapter(model, tmp_path)
    assert (_logits(model) - there).abs().max() <= TOLERANCE


@kinds
def test_files_and_keys_are_peft_s(kind, tmp_path):
    for name, adapter in (
        ("ours", _ours(tiny("llama"), kind).save),
        ("theirs", _theirs(tiny("llama"), kind).save_pretrained),
    ):
        (tmp_path / name).mkdir()
        adapter(tmp_path / name)
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "theirs"))
    assert {key: one.shape for key, one in ours.items()} == {key: one.shape for key, one in theirs.items()}
    ours, theirs = (json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("ours", "theirs"))
    starts = {"prompt_tuning_init", "base_model_name_or_path"}
    assert {key: theirs[key] for key in ours if key not in starts} == {k: v for k, v in ours.items() if k not in starts}


@kinds
def test_an_encoder_computes_what_peft_s_does_in_training(kind, tmp_path):
    """The same numbers of embeddings, LSTM and MLP give the same logits and the same gradients."""
    theirs, model = _theirs(tiny("qwen2"), kind), tiny("qwen2")
    trainable = _ours(model, kind)
    names = {"prompt_embeddings": "embedding.weight"}
    encoder = theirs.prompt_encoder["default"]
    pairs = [
        (here, encoder.get_parameter(names.get(name, name.removeprefix("prompt_encoder."))))
        for name, here in trainable.parameters().items()
    ]
    assert len(pairs) == len(list(encoder.parameters()))
    with torch.no_grad():
        for here, there in pairs:
            here.copy_(there)
    for one in (model.eval(), theirs.eval()):
        logits = one(input_ids=IDS, use_cache=False).logits[:, -IDS.shape[1] :]
        torch.log_softmax(logits, -1)[0, :-1].gather(1, IDS[0, 1:, None]).mean().backward()
    for here, there in pairs:
        assert there.grad.abs().max() > 1e-6
        assert (here.grad - there.grad).abs().max() <= TOLERANCE


def test_a_text_begins_as_in_peft(tiny_llama):
    from luthier.models import load_model
    from luthier.recipe import Model

    words = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "Answer briefly:"}
    base = load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32)
    model = load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32)
    config = PromptTuningConfig(
        num_virtual_tokens=40, task_type="CAUSAL_LM", tokenizer_name_or_path=str(tiny_llama), **words
    )
    theirs = get_peft_model(base, config).prompt_encoder["default"].embedding.weight
    here = prompt.apply(model, prompt.Config(num_virtual_tokens=40, **words)).parameters()["prompt_embeddings"]
    assert torch.equal(here, theirs)


def _reward_model():
    torch.manual_seed(5)
    config = tiny("llama").config
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    model.load_state_dict(tiny("llama").state_dict(), strict=False)
    return model.eval()


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_a_reward_model_keeps_its_head(kind, tmp_path):
    """The head of values trains besides and is saved; PEFT reads both, and what PEFT writes is read here."""
    model = _reward_model()
    trainable = _ours(model, kind)
    assert "score.weight" in trainable.parameters()
    with torch.no_grad():
        trainable.parameters()["score.weight"].add_(0.5)
    trainable.save(tmp_path)
    ids = IDS[:, :-3]
    with torch.no_grad():
        here = model(input_ids=ids, use_cache=False).logits
        there = PeftModel.from_pretrained(_reward_model(), tmp_path).eval()
        assert (there(input_ids=ids, use_cache=False).logits - here).abs().max() <= TOLERANCE
        model.set_attn_implementation("luthier")
        one = ids[0].numpy().astype("int32")
        value = segment_values(model, plant([Tree(segments=(Segment(ids=one, scored=one < 0),))]))
    assert (value - here[0]).abs().max() <= TOLERANCE
    back = tmp_path / "theirs"
    there.save_pretrained(back)
    again = _reward_model()
    load_adapter(again, back)
    with torch.no_grad():
        assert (again(input_ids=ids, use_cache=False).logits - here).abs().max() <= TOLERANCE


def test_the_version_of_peft():
    assert peft.__version__.startswith("0.21"), "read its prompt-learning code again"
