# SPDX-License-Identifier: Apache-2.0
"""Quantised bases as they are loaded: which matrices become codes, what keeps its numbers, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tests.tiny import tiny
from torch import nn
from transformers.pytorch_utils import Conv1D

from luthier.core.errors import MissingExtra, ModelError
from luthier.kernels.quantized import Quantized
from luthier.models import load_model, quantized
from luthier.models.fuse import fuse
from luthier.models.load import sixteen_bits
from luthier.models.probe import prove_forest
from luthier.models.quantized import (
    as_loaded,
    is_quantized,
    read_record,
    stored_bytes,
    told,
    write_record,
)
from luthier.recipe.schema import Model

pytestmark = pytest.mark.filterwarnings("ignore")


def load(folder, quantization: str = "nf4", dtype: torch.dtype = torch.float32, **words):
    pytest.importorskip("bitsandbytes")
    keys = {key: words.pop(key) for key in list(words) if key.startswith("bnb_")}
    return load_model(Model(model_name_or_path=str(folder), quantization=quantization, **keys), dtype, **words)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "bits"), [("nf4", 4.5), ("fp4", 4.5), ("int8", 8.0)])
def test_linears_become_codes_and_all_else_keeps_its_numbers(tiny_llama, kind, bits, dtype):
    model = load(tiny_llama, kind, dtype)
    plain = load_model(Model(model_name_or_path=str(tiny_llama)), dtype)
    for name, parameter in model.named_parameters():
        other = plain.get_parameter(name)
        assert (parameter.shape, parameter.dtype) == (other.shape, other.dtype)
        if ".self_attn." in name or ".mlp." in name:
            assert isinstance(parameter, Quantized), name
            error = (parameter.dense() - other).float().norm() / other.float().norm()
            assert error < (0.02 if kind == "int8" else 0.15), name
        else:
            assert type(parameter) is nn.Parameter
            assert torch.equal(parameter, other), name
    assert all(type(module) is nn.Linear for module in model.modules() if "Linear" in type(module).__name__)
    assert model.dtype == model.config.dtype == dtype
    assert "quantization_config" not in model.config.to_dict()
    matrices = [p for p in model.parameters() if isinstance(p, Quantized)]
    kept = sum(p.stored_bytes() for p in matrices) * 8 / sum(p.numel() for p in matrices)
    assert bits <= kept <= bits + 0.6, "tables and scales are a larger part of small matrices"
    assert f"{kept:.2f} bits a weight" in told(model)
    assert stored_bytes(model) < 0.7 * stored_bytes(plain)
    assert not told(plain)


def test_it_runs_forests_and_is_fused_as_any_model_is(tiny_llama):
    model = load(tiny_llama)
    assert fuse(model)["swiglu"] == 2
    assert prove_forest(model, "tiny") <= 1e-4


def test_codes_do_not_depend_on_the_numbers_that_it_computes_in(tiny_llama):
    one, other = (load(tiny_llama, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    for name, parameter in one.named_parameters():
        if isinstance(parameter, Quantized):
            pairs = zip(parameter.store.tensors(), other.get_parameter(name).store.tensors(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)


def test_double_quantisation_keeps_the_scales_in_eight_bits(tiny_llama):
    model = load(tiny_llama, bnb_4bit_use_double_quant=True)
    store = model.model.layers[0].mlp.gate_proj.weight.store
    assert store.absmax.dtype == torch.uint8
    plain = load(tiny_llama).model.layers[0].mlp.gate_proj.weight.store
    assert torch.equal(store.codes, plain.codes)
    torch.testing.assert_close(store.scales(), plain.scales(), rtol=0.1, atol=0.02)


def test_modules_that_train_whole_keep_their_numbers(tiny_llama):
    model = load(tiny_llama, whole=["mlp", "q_proj"])
    codes = {name.split(".")[-2] for name, p in model.named_parameters() if isinstance(p, Quantized)}
    assert codes == {"k_proj", "v_proj", "o_proj"}


def test_tied_models_and_conv1d(tmp_path):
    tiny("gpt2").save_pretrained(tmp_path)
    model = load(tmp_path)
    assert type(model.transformer.h[0].attn.c_attn) is nn.Linear
    assert model.lm_head.weight is model.transformer.wte.weight
    assert not isinstance(model.lm_head.weight, Quantized)
    assert prove_forest(model, "gpt2") <= 1e-4
    x = torch.randint(3, 60, (1, 9))
    with torch.no_grad():
        before = load(tmp_path, attention="eager").eval()(x).logits
        plain = as_loaded(load(tmp_path, attention="eager")).eval()
        assert type(plain.transformer.h[0].attn.c_attn) is Conv1D
        torch.testing.assert_close(plain(x).logits, before, atol=1e-5, rtol=0)
    assert {n: p.shape for n, p in plain.named_parameters()} == {n: p.shape for n, p in tiny("gpt2").named_parameters()}


def test_a_reward_models_head_is_drawn_as_ever(tiny_llama):
    model = load(tiny_llama, task="SEQ_CLS", seed=3, say=lambda _: None)
    plain = load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32, task="SEQ_CLS", seed=3)
    assert torch.equal(model.score.weight, plain.score.weight)
    assert is_quantized(model)


def test_the_sixteen_bit_model_is_found_again(tiny_llama):
    source = sixteen_bits(load(tiny_llama, dtype=torch.bfloat16))
    assert not is_quantized(source)
    assert source.dtype == torch.float32, "the checkpoint's own numbers"


def test_a_checkpoint_in_codes_stays_as_it_is(tiny_llama, tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    AutoModelForCausalLM.from_pretrained(tiny_llama, quantization_config=how, device_map="cpu").save_pretrained(
        tmp_path
    )
    model = load(tmp_path, "none")
    wanted = load(tiny_llama)
    assert is_quantized(model)
    for name, parameter in wanted.named_parameters():
        there = model.get_parameter(name)
        assert torch.equal(parameter.detach() + 0, there.detach() + 0), name
    with pytest.raises(ModelError, match="quantization: nf4, and a checkpoint that is quantised already"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("bitsandbytes", "a bitsandbytes checkpoint, and no package 'bitsandbytes'; .*pip install bitsandbytes accel"),
        ("compressed-tensors", "a compressed-tensors checkpoint, and no package 'compressed_tensors'"),
        ("hqq", "a checkpoint quantised by hqq; 16 or 32 bits, or bitsandbytes, compressed-tensors, gptq, awq, mx"),
    ],
)
def test_checkpoints_that_nothing_here_can_read(tiny_llama, tmp_path, monkeypatch, kind, text):
    shutil.copytree(tiny_llama, tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"quant_method": kind}}))
    monkeypatch.setattr(quantized, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=text):
        load_model(Model(model_name_or_path=str(tmp_path / "model")), torch.float32)


@pytest.mark.parametrize("package", ["bitsandbytes", "accelerate"])
def test_without_the_package_the_extra_is_named(tiny_llama, monkeypatch, package):
    monkeypatch.setattr(quantized, "find_spec", lambda name: None if name == package else sys)
    with pytest.raises(MissingExtra, match=rf"'{package}' is not installed; .*pip install 'luthier\[bnb\]'"):
        load_model(Model(model_name_or_path=str(tiny_llama), quantization="nf4"), torch.float32)


def test_what_a_base_was_is_written_beside_its_adapter(tmp_path):
    model = tiny("llama")
    write_record(model, tmp_path)
    assert read_record(tmp_path) == {}
    model.base_quantization = {"quantization": "fp4", "bnb_4bit_use_double_quant": True}
    write_record(model, tmp_path)
    assert read_record(tmp_path) == model.base_quantization
    (tmp_path / "quantization.json").write_text("[]")
    with pytest.raises(ModelError, match=r"quantization\.json cannot be read"):
        read_record(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_keeps_the_file_that_it_was_made_from(tiny_llama, tmp_path):
    """One tensor that lies in the mapped file would keep every page that was read: 160 MB of a 110 M model."""
    folder = tmp_path / "bfloat16"
    load_model(Model(model_name_or_path=str(tiny_llama)), torch.bfloat16).save_pretrained(folder)
    model = load(folder, dtype=torch.bfloat16)
    assert is_quantized(model)
    assert str(folder) not in Path("/proc/self/maps").read_text()
