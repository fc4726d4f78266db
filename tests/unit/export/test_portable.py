# SPDX-License-Identifier: Apache-2.0
"""rsLoRA folded into a plain lora_alpha computes the same: here, in PEFT, and for a reader that ignores the flag."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tests.tiny import tiny
from transformers import AutoModelForCausalLM

from luthier.core.errors import RunFailed, UserError
from luthier.export.adapter import load_adapter
from luthier.export.portable import fold_rslora, make_portable

IDS = torch.arange(20)[None]
SETTINGS = {
    "plain": {},
    "rank whose root is no integer": {"r": 5, "lora_alpha": 12.0},
    "fraction": {"lora_alpha": 1.7},
    "ranks": {"rank_pattern": {"down_proj": 9, r"layers\.0\..*q_proj": 2}},
    "alphas": {"alpha_pattern": {"v_proj": 3.0}, "rank_pattern": {"v_proj": 2, "o_proj": 1}},
    "whole and biases": {"modules_to_save": ["lm_head"], "bias": "all"},
    "embeddings": {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "rank_pattern": {"embed_tokens": 7}},
}


@torch.no_grad()
def _logits(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS, use_cache=False).logits


def _ignoring_the_flag(base, adapter) -> torch.Tensor:
    """A server that divides by r whatever use_rslora says."""
    model = AutoModelForCausalLM.from_pretrained(base)
    given = json.loads((adapter / "adapter_config.json").read_text())
    from luthier.methods import lora

    trainable = lora.load_peft(model, given | {"use_rslora": False}, "a server")
    with torch.no_grad():
        saved = {
            name.removeprefix("base_model.model."): t
            for name, t in load_file(adapter / "adapter_model.safetensors").items()
        }
        for name, parameter in trainable.parameters().items():
            parameter.copy_(saved[name])
    return _logits(model)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SETTINGS)
def test_folded_it_computes_the_same(bench, name):
    base = bench.base("qwen2")
    adapter = bench.adapter(base, use_rslora=True, **SETTINGS[name])
    done = make_portable(adapter)
    assert done.folder == bench.folder / "adapter-portable"
    assert done.proof.max_logit_difference <= 1e-4
    assert done.proof.mean_kl <= 1e-11

    trained = AutoModelForCausalLM.from_pretrained(base)
    load_adapter(trained, adapter)
    wanted = _logits(trained)
    assert (_logits(PeftModel.from_pretrained(tiny("qwen2"), done.folder)) - wanted).abs().max() <= 1e-5
    assert (_ignoring_the_flag(base, done.folder) - wanted).abs().max() <= 1e-5
    assert (_ignoring_the_flag(base, adapter) - wanted).abs().max() > 0.01

    given = json.loads((done.folder / "adapter_config.json").read_text())
    assert given["use_rslora"] is False
    about = json.loads((done.folder / "luthier.json").read_text())
    original = json.loads((adapter / "adapter_config.json").read_text())
    assert about["folded_from"] == {key: original[key] for key in ("use_rslora", "lora_alpha", "alpha_pattern")}
    assert about["proof"]["holds"] is True


def test_integers_stay_integers_and_patterns_stay_short():
    given = {
        "r": 16,
        "lora_alpha": 8,
        "use_rslora": True,
        "rank_pattern": {"up": 4, "h.0.down": 25},
        "alpha_pattern": {},
    }
    ranks = {"h.0.up": 4, "h.1.up": 4, "h.0.down": 25, "h.1.down": 16, "h.0.q": 16, "h.1.q": 16}
    folded = fold_rslora(given, ranks)
    assert folded["lora_alpha"] == 32
    assert isinstance(folded["lora_alpha"], int)
    assert folded["alpha_pattern"] == {"up": 16, "h.0.down": 40}
    assert folded["rank_pattern"] == given["rank_pattern"]


def test_other_files_come_along_but_no_pickle(bench):
    adapter = bench.adapter(bench.base(), use_rslora=True)
    for name in ("README.md", "tokenizer_config.json", "adapter_model.bin", "optimizer.bin"):
        (adapter / name).write_text("{}")
    (adapter / "checkpoint-1").mkdir()
    done = make_portable(adapter)
    wanted = ["README.md", "adapter_config.json", "adapter_model.safetensors", "luthier.json", "tokenizer_config.json"]
    assert sorted(file.name for file in done.folder.iterdir()) == wanted


def test_plain_lora_has_nothing_to_fold(bench):
    with pytest.raises(UserError, match=r"use_rslora is false: nothing to fold; an rsLoRA adapter; .*as it is"):
        make_portable(bench.adapter(bench.base()))


def test_a_wrong_fold_is_caught(bench, monkeypatch):
    from luthier.export import portable

    adapter = bench.adapter(bench.base(), use_rslora=True)
    before = sorted(bench.folder.iterdir())
    monkeypatch.setattr(portable, "fold_rslora", lambda given, _: {**given, "use_rslora": False})
    with pytest.raises(RunFailed, match="is not the trained one"):
        make_portable(adapter)
    assert sorted(bench.folder.iterdir()) == before


def test_a_portable_adapter_can_be_made_again(bench):
    adapter = bench.adapter(bench.base(), use_rslora=True)
    make_portable(adapter)
    with pytest.raises(UserError, match="not empty"):
        make_portable(adapter)
    assert make_portable(adapter, overwrite=True).proof.holds
