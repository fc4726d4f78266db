# SPDX-License-Identifier: Apache-2.0
"""A GGUF file holds what was trained: transformers reads the same logits, tokens and template from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from luthier.core.errors import ModelError, RunFailed, UserError
from luthier.export.forms import gguf as form
from luthier.export.held_out import TEXTS
from luthier.export.trained import Request
from luthier.recipe import load_recipe

gguf = pytest.importorskip("gguf")

SIZES = {
    "vocab_size": 304,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FAMILIES = {
    "llama": ("llama", {}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama 3": ("llama", {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 16}}),
    "linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}}),
    "mistral": ("mistral", {"sliding_window": None, "head_dim": 32}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 32}),
}


def make(folder: Path, words: Path, family: str = "llama", dtype: torch.dtype = torch.float32) -> Path:
    """A random model with biases and norms that are not all the same, and a real tokenizer."""
    kind, more = FAMILIES[family]
    config = AutoConfig.for_model(kind, **(SIZES | {"tie_word_embeddings": False} | more))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    place = folder / family.replace(" ", "")
    model.to(dtype).save_pretrained(place)
    for file in words.iterdir():
        if "token" in file.name or "template" in file.name:
            shutil.copy(file, place)
    return place


def export(source: Path, output: Path, **keys):
    said: list[str] = []
    given = {name: keys.pop(name) for name in ("bound", "overwrite", "base") if name in keys}
    done = form.write(Request(source=source, output=output, say=said.append, **given), form.Config(**keys))
    return done, "\n".join(said)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_reads_the_same_logits(tmp_path, tiny_llama, family):
    base = make(tmp_path, tiny_llama, family)
    done, _ = export(base, tmp_path / "out", dtype="f32")
    assert done.proof.max_logit_difference <= 2e-5
    (file,) = done.folder.glob("*.gguf")
    fields = gguf.GGUFReader(file).fields
    names = {tensor.name for tensor in gguf.GGUFReader(file).tensors}
    assert ("output.weight" in names) is (family != "tied")
    assert ("rope_freqs.weight" in names) is (family == "llama 3")
    architecture = fields["general.architecture"].contents()
    assert architecture == {"mistral": "llama"}.get(FAMILIES[family][0], FAMILIES[family][0])
    assert fields[f"{architecture}.context_length"].contents() == 128
    assert fields[f"{architecture}.vocab_size"].contents() == 304


def test_an_adapter_is_folded_in(bench, tiny_llama, alpaca_file):
    run = bench.run(tiny_llama, alpaca_file, eval=str(alpaca_file))
    done, _ = export(run, bench.folder / "out", dtype="f16")
    assert done.proof.rows == "data.eval of the run"
    assert done.proof.mean_kl <= 1e-6 < 1e-3 < done.proof.adapter_kl
    about = json.loads((done.folder / "export_proof.json").read_text())
    assert about["file"] == "run-f16.gguf"
    assert about["holds"] is True
    assert {file.name for file in done.folder.iterdir()} == {"run-f16.gguf", "export_proof.json", "README.md"}


@pytest.mark.parametrize(("kind", "most"), [("q8_0", 1e-2), ("q5_1", 0.2), ("q4_0", 1.0)])
def test_few_bits(tmp_path, tiny_llama, kind, most):
    done, said = export(make(tmp_path, tiny_llama), tmp_path / "out", dtype=kind, bound=5.0)
    assert 1e-6 < done.proof.mean_kl < most
    assert done.proof.dtype == kind
    assert done.proof.bits == int(kind[1])
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(next(done.folder.glob("*.gguf"))).tensors}
    assert kinds["blk.0.ffn_up.weight"] == kind.upper()
    assert kinds["token_embd.weight"] == "Q8_0"
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    assert ("token_embd.weight (q8_0)" in said) is (kind != "q8_0")


def test_a_wrong_file_is_no_result(tmp_path, tiny_llama, monkeypatch):
    """Queries and keys that are not turned: the usual fault of a converter."""
    base = make(tmp_path, tiny_llama)
    monkeypatch.setattr("luthier.export.forms._gguf_weights.turned", lambda values, heads: values)
    with pytest.raises(RunFailed, match="the written model is not the trained one"):
        export(base, tmp_path / "out", dtype="f32")
    assert not (tmp_path / "out").exists()


def test_bits_beyond_the_bound_are_no_result(tmp_path, tiny_llama):
    with pytest.raises(RunFailed, match="take more bits"):
        export(make(tmp_path, tiny_llama), tmp_path / "out", dtype="q4_0", bound=1e-6)


def test_the_tokenizer_survives(tmp_path, tiny_llama):
    done, _ = export(make(tmp_path, tiny_llama), tmp_path / "out")
    file = next(done.folder.glob("*.gguf"))
    mine, theirs = (
        AutoTokenizer.from_pretrained(tiny_llama),
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name),
    )
    assert [mine(text)["input_ids"] for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]
    assert theirs.chat_template == mine.chat_template
    assert (theirs.eos_token, theirs.pad_token) == ("<|end|>", "<|pad|>")
    fields = gguf.GGUFReader(file).fields
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False
    assert fields["tokenizer.ggml.tokens"].contents()[300:] == ["[PAD300]", "[PAD301]", "[PAD302]", "[PAD303]"]
    kinds = fields["tokenizer.ggml.token_type"].contents()
    assert (kinds[1], kinds[10], kinds[303]) == (gguf.TokenType.CONTROL, gguf.TokenType.NORMAL, gguf.TokenType.UNUSED)


def test_other_architectures_are_refused(bench, tiny_llama):
    base = bench.base("neox")
    for file in tiny_llama.iterdir():
        if "token" in file.name:
            shutil.copy(file, base)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(300, mean_resizing=False)
    model.save_pretrained(base)
    with pytest.raises(ModelError, match="llama, mistral, qwen2, qwen3"):
        export(base, bench.folder / "out")


def test_faults_come_with_words(tmp_path, bench, tiny_llama):
    with pytest.raises(ModelError, match="a model without a tokenizer"):
        export(bench.base(), tmp_path / "out")
    yarn = make(tmp_path, tiny_llama)
    config = json.loads((yarn / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
    config["rope_parameters"]["original_max_position_embeddings"] = 64
    (yarn / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="positions of the kind 'yarn'"):
        export(yarn, tmp_path / "out")
    with pytest.raises(UserError, match="--base"):
        export(yarn, tmp_path / "out", base="embedded")


def test_a_run_that_trained_the_whole_model(tmp_path, tiny_llama, alpaca_file):
    """It is told how far training had moved its base, as long as that is there."""
    run, base = tmp_path / "run", make(tmp_path, tiny_llama)
    run.mkdir()
    tree = {"model": {"model_name_or_path": str(base)}, "data": {"train": str(alpaca_file)}, "method": "full"}
    (run / "recipe.yaml").write_text(load_recipe(tree).to_yaml())
    shutil.copytree(base, run / "model")
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.lm_head.weight.add_(0.05 * torch.randn_like(model.lm_head.weight))
    model.save_pretrained(run / "model")
    done, _ = export(run, tmp_path / "out")
    assert done.proof.adapter_kl > 1e-3
    assert done.proof.mean_kl < 1e-9
    assert "trained with method `full`" in (done.folder / "README.md").read_text()
    shutil.rmtree(base)
    again, _ = export(run / "model", tmp_path / "again")
    assert json.loads((again.folder / "export_proof.json").read_text())["adapter_kl"] is None


def test_the_built_in_model_needs_a_place():
    with pytest.raises(UserError, match="--output: nothing, for a built-in model"):
        export("embedded-tiny", None)
