# SPDX-License-Identifier: Apache-2.0
"""An adapter loads whole or not at all, and never under other settings than its own."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import tiny

from luthier.core.errors import ModelError, RecipeError
from luthier.export.adapter import fill_adapter, load_adapter, read_config
from luthier.methods import lora


def _change(adapter, edit) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_it_goes_on_where_it_stopped(bench):
    adapter = bench.adapter(bench.base(), use_rslora=True, rank_pattern={"v_proj": 2})
    trainable = lora.apply(tiny("llama"), lora.Config(r=4, lora_alpha=8.0, use_rslora=True, rank_pattern={"v_proj": 2}))
    fill_adapter(trainable, adapter)
    saved = load_file(adapter / "adapter_model.safetensors")
    assert all(torch.equal(saved[f"base_model.model.{name}"], p) for name, p in trainable.parameters().items())
    assert all(p.requires_grad for p in trainable.parameters().values())


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"use_rslora": False}, "use_rslora: true"),
        ({"lora_alpha": 16.0}, "lora_alpha: 8"),
        ({"r": 8, "lora_alpha": 8.0}, "r: 4"),
        ({"rank_pattern": {"v_proj": 2}}, "has r 4"),
        ({"alpha_pattern": {"v_proj": 2.0}}, "v_proj"),
    ],
)
def test_other_settings_would_be_another_function(bench, keys, said):
    """The tensors of most of these fit: without the check, training would go on from something else."""
    adapter = bench.adapter(bench.base(), use_rslora=True)
    trainable = lora.apply(tiny("llama"), lora.Config(**({"r": 4, "lora_alpha": 8.0, "use_rslora": True} | keys)))
    with pytest.raises(
        RecipeError, match=r"model.adapter_name_or_path: .*the same r, lora_alpha, use_rslora"
    ) as refusal:
        fill_adapter(trainable, adapter)
    assert said in str(refusal.value)


def test_other_layers_are_refused(bench):
    adapter = bench.adapter(bench.base(), target_modules=["q_proj"])
    trainable = lora.apply(tiny("llama"), lora.Config(r=4, lora_alpha=8.0, target_modules=["q_proj", "v_proj"]))
    with pytest.raises(ModelError, match=r"no weights for model.layers.0.self_attn.v_proj.lora_A.weight"):
        fill_adapter(trainable, adapter)


def test_a_missing_tensor(bench):
    adapter = bench.adapter(bench.base())
    _change(adapter, lambda tensors: tensors.pop("base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"))
    with pytest.raises(ModelError, match=r"no weights for model.layers.1.mlp.up_proj.lora_B.weight"):
        load_adapter(tiny("llama"), adapter)


def test_a_tensor_too_many(bench):
    adapter = bench.adapter(bench.base())
    _change(
        adapter,
        lambda tensors: tensors.update(
            {"base_model.model.model.layers.9.mlp.up_proj.lora_A.weight": torch.ones(4, 32)}
        ),
    )
    with pytest.raises(ModelError, match=r"layers.9.mlp.up_proj.lora_A.weight has no place in the model"):
        load_adapter(tiny("llama"), adapter)


def test_a_resized_vocabulary(bench):
    adapter = bench.adapter(bench.base())
    _change(adapter, lambda tensors: tensors.update({"base_model.model.lm_head.weight": torch.ones(64, 32)}))
    with pytest.raises(
        ModelError, match=r"lm_head.weight has shape \(64, 32\), the model \(60, 32\).*resize_token_embeddings"
    ):
        load_adapter(tiny("llama"), adapter)


def test_a_tied_update_that_came_apart(bench):
    adapter = bench.adapter(bench.base("tied"), target_modules=["embed_tokens"], ensure_weight_tying=True)
    _change(adapter, lambda tensors: tensors["base_model.model.lm_head.lora_A.weight"].add_(1.0))
    with pytest.raises(ModelError, match=r"lm_head.lora_A.weight differs from the embedding's update"):
        load_adapter(tiny("tied"), adapter)


def test_narrow_files_become_wide_parameters(bench):
    adapter = bench.adapter(bench.base())
    _change(adapter, lambda tensors: tensors.update({name: t.to(torch.bfloat16) for name, t in tensors.items()}))
    trainable = load_adapter(tiny("llama"), adapter)
    assert {p.dtype for p in trainable.parameters().values()} == {torch.float32}


def test_names_without_peft_prefix(bench):
    adapter = bench.adapter(bench.base())
    wanted = load_adapter(tiny("llama"), adapter).parameters()
    file = adapter / "adapter_model.safetensors"
    save_file({name.removeprefix("base_model.model."): t for name, t in load_file(file).items()}, file)
    got = load_adapter(tiny("llama"), adapter).parameters()
    assert all(torch.equal(got[name], p) for name, p in wanted.items())


def test_broken_folders(bench):
    adapter = bench.adapter(bench.base())
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ModelError, match=r"cannot be read .*a whole file"):
        load_adapter(tiny("llama"), adapter)
    weights.unlink()
    with pytest.raises(ModelError, match=r"no adapter_model.safetensors"):
        load_adapter(tiny("llama"), adapter)
    (adapter / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"adapter_model.bin, a pickle: .*safe_serialization"):
        load_adapter(tiny("llama"), adapter)
    for text, said in (("{", "cannot be read"), ("[1]", "holds list"), (b"\xff\xfe", "cannot be read")):
        (adapter / "adapter_config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ModelError, match=said):
            read_config(adapter)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(ModelError, match=r"no adapter_config.json or luthier_adapter.json; an adapter folder"):
        load_adapter(tiny("llama"), adapter)


def test_the_base_is_named_by_its_whole_path(bench, monkeypatch):
    """A relative path would mean another folder, or none, wherever the adapter is used next."""
    base = bench.base()
    monkeypatch.chdir(bench.folder)
    adapter = bench.adapter(base.relative_to(bench.folder))
    given = json.loads((adapter / "adapter_config.json").read_text())
    assert given["base_model_name_or_path"] == str(base.resolve())
