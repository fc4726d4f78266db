# SPDX-License-Identifier: Apache-2.0
"""A merged folder is the trained model, says so in numbers, and is there whole or not at all."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from tests.tiny import tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from luthier.core.errors import ModelError, UserError
from luthier.export.adapter import load_adapter
from luthier.export.merge import merge_run

IDS = torch.arange(20)[None]

KEYS = {"rows", "tokens", "max_logit_difference", "mean_kl", "perplexity_before", "perplexity_after", "top1_agreement"}
KEYS |= {"adapter_kl", "dtype", "computed_in", "bound", "holds", "adapter", "base"}


@torch.no_grad()
def logits_of(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS, use_cache=False).logits


def trained_logits(base, adapter) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    load_adapter(model, adapter)
    return logits_of(model)


@pytest.mark.parametrize("family", ["llama", "tied", "qwen2", "gpt2", "neox", "gemma3"])
def test_the_folder_is_the_trained_model(bench, family):
    base = bench.base(family)
    adapter = bench.adapter(base, bias="all")
    done = merge_run(adapter, bench.folder / "out")
    plain = AutoModelForCausalLM.from_pretrained(done.folder, dtype="auto")
    assert plain.dtype == torch.float32
    assert (logits_of(plain) - trained_logits(base, adapter)).abs().max() <= 1e-5
    proof = json.loads((done.folder / "merge_proof.json").read_text())
    assert proof.keys() == KEYS
    assert proof["holds"] is True
    assert proof["mean_kl"] <= 1e-10 < 1e-3 < proof["adapter_kl"]
    assert proof["top1_agreement"] == 1.0
    assert proof["perplexity_before"] == pytest.approx(proof["perplexity_after"], rel=1e-5)
    assert sorted(file.name for file in bench.folder.iterdir()) == sorted(["out", "adapter", base.name])


def test_a_mixture_of_experts(bench):
    """Its experts are stored one by one on disk and as one parameter in memory; both ways must be taken."""
    base = bench.base("experts")
    adapter = bench.adapter(base, target_modules="attention", modules_to_save=["layers.1.mlp"])
    done = merge_run(adapter, bench.folder / "out")
    plain = AutoModelForCausalLM.from_pretrained(done.folder)
    assert (logits_of(plain) - trained_logits(base, adapter)).abs().max() <= 1e-5


ENDS = {
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "embedding": {"target_modules": ["embed_tokens"]},
    "whole head": {"modules_to_save": ["lm_head"]},
    "both, shared": {"target_modules": ["lm_head"], "ensure_weight_tying": True},
    "neither": {"target_modules": ["q_proj"]},
}


@pytest.mark.parametrize("name", ENDS)
def test_tied_models(bench, name):
    base = bench.base("tied")
    adapter = bench.adapter(base, **ENDS[name])
    done = merge_run(adapter, bench.folder / "out")
    plain = AutoModelForCausalLM.from_pretrained(done.folder)
    assert plain.config.tie_word_embeddings is (name in ("both, shared", "neither"))
    assert (plain.lm_head.weight is plain.model.embed_tokens.weight) is plain.config.tie_word_embeddings
    trained = trained_logits(base, adapter)
    assert (logits_of(plain) - trained).abs().max() <= 1e-6 * trained.abs().max()


@pytest.mark.parametrize("checkpoint", [torch.bfloat16, torch.float16])
def test_the_checkpoints_type_is_kept(bench, checkpoint):
    base = bench.base("llama", checkpoint)
    done = merge_run(bench.adapter(base), bench.folder / "out")
    assert _stored(done.folder) == {str(checkpoint)}
    assert done.proof.computed_in == "float32"
    assert done.proof.mean_kl <= {torch.bfloat16: 1e-4, torch.float16: 1e-6}[checkpoint]
    assert json.loads((done.folder / "config.json").read_text())["dtype"] == str(checkpoint)[6:]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_another_type_can_be_asked_for(bench, dtype):
    done = merge_run(bench.adapter(bench.base("llama", torch.bfloat16)), bench.folder / "out", dtype=dtype)
    assert _stored(done.folder) == {f"torch.{dtype}"}
    assert done.proof.dtype == dtype
    assert done.proof.mean_kl <= {"float32": 1e-10, "bfloat16": 1e-4, "float16": 1e-6}[dtype]


def _stored(folder) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {str(file.get_tensor(key).dtype) for key in file.keys()}  # noqa: SIM118 - not a dict


def test_weights_are_rounded_once(bench):
    """What stands on disk is the float32 sum rounded to bfloat16, not a sum of rounded numbers."""
    base = bench.base("llama", torch.bfloat16)
    adapter = bench.adapter(base, size=0.02)
    done = merge_run(adapter, bench.folder / "out")
    exact = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = load_adapter(exact, adapter).merge().state_dict()
    with safe_open(done.folder / "model.safetensors", "pt") as file:
        assert all(torch.equal(file.get_tensor(key), merged[key].to(torch.bfloat16)) for key in file.keys())  # noqa: SIM118


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_of_someone_else(bench):
    base = bench.base("qwen2")
    theirs = get_peft_model(tiny("qwen2"), LoraConfig(r=4, target_modules=["q_proj", "lm_head"], bias="lora_only"))
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(bench.folder / "theirs")
    done = merge_run(bench.folder / "theirs", base=str(base))
    assert done.folder == bench.folder / "theirs-merged"
    assert (logits_of(AutoModelForCausalLM.from_pretrained(done.folder)) - logits_of(theirs)).abs().max() <= 1e-5


def test_generation_settings_survive_even_odd_ones(bench):
    """Llama 2's base has a temperature without sampling: transformers loads that and refuses to save it."""
    base = bench.base()
    (base / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "do_sample": False, "max_length": 99}))
    done = merge_run(bench.adapter(base))
    kept = json.loads((done.folder / "generation_config.json").read_text())
    assert (kept["temperature"], kept["max_length"]) == (0.6, 99)


def test_a_run_is_proved_on_its_held_out_rows(bench, tiny_llama, alpaca_file):
    run = bench.run(tiny_llama, alpaca_file, eval=str(alpaca_file))
    done = merge_run(run)
    assert done.folder == run / "merged"
    assert done.proof.rows == "data.eval of the run"
    assert 1000 < done.proof.tokens <= 4096
    base, merged = (AutoTokenizer.from_pretrained(place) for place in (tiny_llama, done.folder))
    assert merged.chat_template == base.chat_template
    assert merged("The cat sleeps.")["input_ids"] == base("The cat sleeps.")["input_ids"]


def test_training_rows_do_where_nothing_was_held_out(bench, tiny_llama, alpaca_file):
    done = merge_run(bench.run(tiny_llama, alpaca_file))
    assert done.proof.rows == "data.train of the run, which has no data.eval"


def test_rows_that_are_gone_are_said(bench, tiny_llama, alpaca_file, tmp_path):
    rows = shutil.copy(alpaca_file, tmp_path / "rows.jsonl")
    run = bench.run(tiny_llama, rows)
    rows.unlink()
    said: list[str] = []
    done = merge_run(run, say=said.append)
    assert done.proof.rows == "built-in texts"
    assert any("the run's rows cannot be read" in line for line in said)


def test_the_adapter_in_a_run_knows_its_run(bench, tiny_llama, alpaca_file):
    run = bench.run(tiny_llama, alpaca_file)
    done = merge_run(run / "adapter")
    assert done.folder == run / "merged"
    assert done.proof.rows.startswith("data.train")


def test_a_base_that_moved(bench, tiny_llama, alpaca_file, tmp_path):
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    run = bench.run(base, alpaca_file)
    base = shutil.move(base, tmp_path / "moved")
    with pytest.raises(ModelError, match="no such folder"):
        merge_run(run)
    assert merge_run(run, base=str(base)).proof.holds


def test_own_texts(bench, tiny_llama, alpaca_file):
    done = merge_run(bench.run(tiny_llama, alpaca_file), texts=["One sentence here.", "And another one there."])
    assert done.proof.rows == "given texts"
    assert done.proof.tokens < 60


def test_a_tokenizer_that_does_not_fit(bench, tiny_llama, alpaca_file):
    run = bench.run(tiny_llama, alpaca_file)
    with pytest.raises(UserError, match="it makes token 272, the base has 60 words"):
        merge_run(run / "adapter", base=str(small(bench)), texts=["The cat sleeps."])


def small(bench):
    """A Llama with the run's shapes and too few words."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=60, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    config.num_key_value_heads = 2
    LlamaForCausalLM(config).save_pretrained(bench.folder / "small")
    return bench.folder / "small"
