# SPDX-License-Identifier: Apache-2.0
"""Loading a model: what is refused, in words that say what was found, what may stand there and what to do."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.runs import tree
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.core.errors import ModelError
from luthier.models import load_model, load_tokenizer, locate, scored_logprobs
from luthier.models.load import load_config
from luthier.models.probe import probe_forest
from luthier.recipe import Model
from luthier.run import preview


def load(folder: Path | str, **words: Any) -> Any:
    return load_model(Model(model_name_or_path=str(folder)), torch.float32, **words)


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama that a test may break."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def _configure(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _reweigh(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def test_a_whole_folder_loads_and_runs(folder: Path) -> None:
    model = load(folder)
    assert model.config._attn_implementation == "luthier"
    assert scored_logprobs(model, probe_forest(model)).isfinite().all()


def test_a_tied_head_needs_no_weights_of_its_own(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    config.tie_word_embeddings = True
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model = load(tmp_path)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def _drop_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def _lose_some(folder: Path) -> None:
    _reweigh(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "layers.1." in name] and None)


def _reshape_one(folder: Path) -> None:
    _reweigh(folder, lambda tensors: tensors.update({"model.layers.0.mlp.up_proj.weight": torch.zeros(3, 3)}))


def _adapter_only(folder: Path) -> None:
    _drop_config(folder)
    (folder / "adapter_config.json").write_text("{}")


def _adapter_too(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


# What is done to the folder -> what was found, and what to do about it.
BROKEN: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "no config": (_drop_config, "no config.json", "convert the model"),
    "no weights": (_drop_weights, "no weights; at least one *.safetensors file", "download the whole model"),
    "pickle only": (_pickle_weights, "weights as pickle only (pytorch_model.bin)", "save_pretrained"),
    "cut off": (_cut_weights, "model.safetensors cannot be read", "download the file again"),
    "some missing": (_lose_some, "weights are missing in the checkpoint (model.layers.1.", "download the whole folder"),
    "another shape": (_reshape_one, "weights have other shapes than config.json says", "download the whole folder"),
    "an adapter": (_adapter_only, "an adapter folder, not a model", "model.adapter_name_or_path"),
    "an adapter too": (_adapter_too, "a model and an adapter in one folder", "a folder of their own"),
    "config is no JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        "not a valid JSON",
        "check the folder",
    ),
    "unknown type": (
        lambda folder: _configure(folder, model_type="nonsense"),
        "model type `nonsense`",
        "check the folder",
    ),
    "impossible": (lambda folder: _configure(folder, num_attention_heads=7), "not a multiple", "check the folder"),
    "encoder-decoder": (
        lambda folder: _configure(folder, model_type="t5", architectures=["T5ForConditionalGeneration"]),
        "T5ForConditionalGeneration, an encoder-decoder, for CAUSAL_LM",
        "set model.task_type to SEQ_2_SEQ_LM",
    ),
    "image model": (
        lambda folder: _configure(folder, model_type="vit", architectures=["ViTModel"]),
        "ViTModel (vit) is no causal language model",
        "choose a decoder",
    ),
    "code of its own": (
        lambda folder: _configure(
            folder, model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
        ),
        "it needs Python code that comes with it",
        "model.trust_remote_code: true only if you trust it",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_folders_are_refused(what: str, folder: Path) -> None:
    breaks, found, fix = BROKEN[what]
    breaks(folder)
    with pytest.raises(ModelError, match=re.escape(found)) as caught:
        load(folder)
    assert fix in caught.value.fix
    assert caught.value.where == f"model {folder}"
    assert caught.value.allowed


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("./nowhere", "no such folder"),
        ("/nowhere/model", "no such folder"),
        ("~/nowhere", "no such folder"),
        ("a/b/c", "no such folder"),
        (__file__, "a file"),
    ],
)
def test_paths_that_are_no_folder(name: str, found: str) -> None:
    with pytest.raises(ModelError, match=found):
        locate(name)


@pytest.mark.parametrize("name", ["gpt2", "someone/model"])
def test_hub_names_offline(name: str) -> None:
    assert locate(name) == name
    for call in (load, load_config, load_tokenizer):
        with pytest.raises(ModelError, match="not in the local cache, and the hub cannot be reached") as caught:
            call(name)
        assert f"hf download {name}" in caught.value.fix


def test_weights_without_a_place_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    _reweigh(folder, lambda tensors: tensors.update({"model.layers.7.extra.weight": torch.zeros(2)}))
    said: list[str] = []
    load(folder, say=said.append)
    words = "the checkpoint holds 1 weight that the model has no place for; left out (model.layers.7.extra.weight)"
    assert said == [f"model {folder}: {words}"]
    with caplog.at_level(logging.WARNING, "luthier.models"):
        load(folder)
    assert said[0] in caplog.messages


def test_a_run_says_it(folder: Path, alpaca_file: Path, tmp_path: Path) -> None:
    _reweigh(folder, lambda tensors: tensors.update({"model.layers.7.extra.weight": torch.zeros(2)}))
    said: list[str] = []
    preview(tree(folder, alpaca_file, tmp_path / "run"), say=said.append)
    assert [line for line in said if "that the model has no place for" in line]


def test_code_that_is_not_needed_is_not_run(folder: Path) -> None:
    """A known architecture that also brings code: transformers' own is used, the folder's is never imported."""
    (folder / "mine.py").write_text("raise SystemExit('run')")
    _configure(folder, auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"})
    assert type(load(folder)) is LlamaForCausalLM


def test_tokenizers(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.is_fast
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink(missing_ok=True)
    with pytest.raises(ModelError, match=f"tokenizer {re.escape(str(folder))}: "):
        load_tokenizer(str(folder))


def test_a_tokenizer_without_padding_pads_with_its_end(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings.pop("pad_token")
    file.write_text(json.dumps(settings))
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
