# SPDX-License-Identifier: Apache-2.0
"""A merged reward model gives the values that were trained, says so in numbers, or is not written at all."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from tests.reward import base, reward, shake
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from luthier.core.errors import ModelError, RunFailed
from luthier.export import merge as merging
from luthier.export.adapter import load_adapter
from luthier.export.merge import merge_run
from luthier.export.origin import find_origin
from luthier.export.portable import make_portable
from luthier.export.value_proof import BOUNDS, ValueComparison
from luthier.methods import lora

IDS = torch.arange(3, 20)[None]
ROWS = [[5, 9, 2, 44, 7], [1, 2, 3], [8]]


@torch.no_grad()
def _value(model) -> float:
    model.set_attn_implementation("eager")
    return float(model.eval()(input_ids=IDS, use_cache=False).logits[0, 0])


@pytest.fixture
def adapter(tmp_path):
    """Make a trained reward adapter's folder beside its base."""

    def make(family="llama", *, size=0.1, **keys):
        folder = base(tmp_path / family, family)
        model = reward(folder)
        trainable = lora.apply(model, lora.Config(**({"r": 4, "lora_alpha": 8.0} | keys)))
        shake(trainable.parameters().values(), size)
        (tmp_path / "adapter").mkdir()
        trainable.save(tmp_path / "adapter")
        return tmp_path / "adapter"

    return make


def _trained(folder) -> float:
    model = find_origin(folder).load_base(torch.float32, attention="eager")
    load_adapter(model, folder)
    return _value(model)


@pytest.mark.parametrize("family", ["llama", "tied", "qwen2", "gpt2", "gemma3"])
def test_the_folder_gives_the_trained_values(adapter, tmp_path, family):
    folder = adapter(family)
    done = merge_run(folder, tmp_path / "out")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", dtype="auto")
    assert plain.num_labels == 1
    assert abs(_value(plain) - _trained(folder)) <= 1e-5
    proof = json.loads((tmp_path / "out" / "merge_proof.json").read_text())
    assert proof["holds"] is True
    assert proof["relative_difference"] <= 1e-5 < 0.1 < proof["adapter_difference"]
    assert proof["order_agreement"] > 0.99
    assert "values after 256 tokens compared (numbers in order (there is no tokenizer))" in done.proof.told()
    assert abs(_value(reward(tmp_path / "out")) - _trained(folder)) <= 1e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_is_within_the_bound(adapter, tmp_path, dtype):
    done = merge_run(adapter(), tmp_path / "out", dtype=dtype)
    assert done.proof.dtype == dtype
    assert 1e-6 < done.proof.relative_difference <= 0.5 * BOUNDS[getattr(torch, dtype)]


@torch.no_grad()
def _drop_the_update(model, *rest):
    model.model.layers[1].mlp.down_proj.weight.zero_()
    return _write(model, *rest)


@torch.no_grad()
def _forget_the_head(model, *rest):
    model.score.weight.normal_(std=0.15)
    return _write(model, *rest)


@torch.no_grad()
def _not_a_number(model, *rest):
    model.score.weight[0, 0] = float("nan")
    return _write(model, *rest)


_write = merging.write_model


@pytest.mark.parametrize("fault", [_drop_the_update, _forget_the_head, _not_a_number])
def test_a_wrong_merge_is_caught(adapter, tmp_path, monkeypatch, fault):
    folder = adapter(size=0.02)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(merging, "write_model", fault)
    with pytest.raises(RunFailed, match="is not the trained one: values after"):
        merge_run(folder, tmp_path / "out", dtype="bfloat16")
    assert sorted(tmp_path.iterdir()) == before


def test_folded_rslora_gives_the_same_values(adapter, tmp_path):
    folder = adapter(use_rslora=True)
    done = make_portable(folder, tmp_path / "portable")
    assert done.proof.relative_difference <= 1e-6
    assert abs(_trained(tmp_path / "portable") - _trained(folder)) <= 1e-5


def test_the_tokenizer_pads_with_the_models_padding(tiny_llama, tmp_path):
    model, tokenizer = reward(tiny_llama), AutoTokenizer.from_pretrained(tiny_llama)
    trainable = lora.apply(model, lora.Config(r=4))
    shake(trainable.parameters().values())
    (tmp_path / "adapter").mkdir()
    trainable.save(tmp_path / "adapter")
    tokenizer.pad_token = tokenizer.eos_token  # as other trainers leave it
    tokenizer.save_pretrained(tmp_path / "adapter")
    done = merge_run(tmp_path / "adapter", tmp_path / "out", texts=["One sentence here.", "And another one."])
    assert done.proof.rows == "given texts"
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert words.pad_token_id == plain.config.pad_token_id == model.config.pad_token_id
    texts = ["Lima.<|end|>", "The capital of Peru is Lima.<|end|>"]
    with torch.no_grad():
        both = plain(**words(texts, padding=True, return_tensors="pt")).logits[:, 0]
        alone = [plain(**words(text, return_tensors="pt")).logits[0, 0] for text in texts]
    assert both.tolist() == pytest.approx([float(value) for value in alone], abs=1e-5)


def test_a_reward_adapter_is_not_put_on_a_language_model(adapter):
    from luthier.models import load_model

    folder = adapter()
    words = load_model(find_origin(folder).model, torch.float32)
    with pytest.raises(ModelError, match="task_type SEQ_CLS for LlamaForCausalLM"):
        load_adapter(words, folder)


def test_a_language_models_adapter_does_not_begin_a_reward_model(tmp_path):
    from luthier.export.adapter import fill_adapter
    from luthier.models import load_model
    from luthier.recipe import Model

    folder = base(tmp_path / "llama")
    words = lora.apply(load_model(Model(model_name_or_path=str(folder)), torch.float32), lora.Config(r=4))
    (tmp_path / "adapter").mkdir()
    words.save(tmp_path / "adapter")
    values = lora.apply(reward(folder), lora.Config(r=4))
    with pytest.raises(ModelError, match=r"no weights for score.weight.*merge it first"):
        fill_adapter(values, tmp_path / "adapter")


# ---------------------------------------------------------------- formulas


def _proof(trained, written, other=None, dtype=torch.float32, **keys):
    comparison = ValueComparison(ROWS, "rows")
    comparison.remember(trained)
    if other is not None:
        comparison.measure_base(other)
    return comparison.prove(written, dtype=dtype, **keys)


@pytest.fixture
def three(tmp_path):
    model = reward(base(tmp_path / "llama"), attention="eager")
    made = [copy.deepcopy(model) for _ in range(3)]
    for one, size in zip(made[1:], (0.01, 0.3), strict=True):
        shake(one.parameters(), size)
    return made


def test_the_formulas(three):
    proof = _proof(*three)
    with torch.no_grad():
        found = [
            torch.cat([m.score(m.model(torch.tensor([row])).last_hidden_state[0])[:, 0] for row in ROWS[:2]]).double()
            for m in three
        ]
    trained, written, other = found
    spread = math.sqrt(sum((v - float(trained.mean())) ** 2 for v in trained.tolist()) / (len(trained) - 1))
    assert proof.tokens == 8
    assert proof.spread == pytest.approx(spread)
    assert proof.relative_difference == pytest.approx(float((trained - written).norm()) / math.sqrt(8) / spread)
    assert proof.adapter_difference == pytest.approx(float((trained - other).norm()) / math.sqrt(8) / spread)
    assert proof.max_value_difference == pytest.approx(float((trained - written).abs().max()))
    pairs = [(0, 1), (1, 2), (2, 3), (3, 4), (5, 6), (6, 7)]
    same = [(trained[a] < trained[b]) == (written[a] < written[b]) for a, b in pairs]
    assert proof.order_agreement == pytest.approx(sum(map(bool, same)) / 6)


def test_what_holds(three):
    assert _proof(three[0], three[0], three[2]).holds
    assert not _proof(three[0], three[1], three[2]).holds
    assert _proof(three[0], three[1], three[2], bound=1.0).holds
    assert not _proof(three[0], three[1], three[1], bound=1.0).holds, "all of a short training is lost"
    with pytest.raises(RunFailed, match=r"give --dtype float32"):
        _proof(three[0], three[1], three[2]).demand("here")
