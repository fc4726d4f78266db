# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that transformers makes dense while it reads them: FP8 (DeepSeek's layout) and MXFP4 (gpt-oss)."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import COMMON
from transformers import AutoConfig, AutoModelForCausalLM

from luthier.models import load_model
from luthier.models.quantized import is_quantized
from luthier.recipe.schema import Model

pytestmark = pytest.mark.filterwarnings("ignore")


def saved(folder, kind: str, how: dict, change, **keys) -> dict[str, torch.Tensor]:
    """A tiny model whose tensors `change` has written in another way, and what they stand for."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **COMMON | keys), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    wanted = change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": how}))
    return wanted


def test_fp8(tmp_path):
    def change(tensors):
        wanted = {}
        for name in [name for name in tensors if "_proj.weight" in name]:
            weight = tensors[name].float()
            scale = torch.full((weight.shape[0] // 128, weight.shape[1] // 128), float(weight.abs().max()) / 448)
            tensors[name] = (weight / scale[0, 0]).to(torch.float8_e4m3fn)
            tensors[name.replace("weight", "weight_scale_inv")] = scale
            wanted[name] = tensors[name].float() * scale[0, 0]
        return wanted

    how = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    wide = {"hidden_size": 128, "intermediate_size": 256, "num_key_value_heads": 4}
    wanted = saved(tmp_path, "llama", how, change, **wide)
    model = load_model(Model(model_name_or_path=str(tmp_path)), torch.bfloat16)
    assert not is_quantized(model)
    for name, matrix in wanted.items():
        torch.testing.assert_close(model.get_parameter(name).float(), matrix, rtol=2**-8, atol=1e-6)
    assert not hasattr(model.config, "quantization_config")


def test_mxfp4(tmp_path):
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])  # E2M1
    values = torch.cat([values, -values])

    def change(tensors):
        wanted = {}
        for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
            experts, inputs, outputs = tensors.pop(name).shape
            blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
            scales = torch.randint(118, 124, (experts, outputs, inputs // 32), dtype=torch.uint8)
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = blocks, scales
            codes = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2).long()  # the first in the lower half
            dense = values[codes] * 2.0 ** (scales.int() - 127)[..., None]
            wanted[name] = dense.flatten(-2).transpose(1, 2)
        return wanted

    sizes = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "head_dim": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    }
    wanted = saved(tmp_path, "gpt_oss", {"quant_method": "mxfp4"}, change, **sizes)
    model = load_model(Model(model_name_or_path=str(tmp_path)), torch.bfloat16)
    for name, matrix in wanted.items():
        assert torch.equal(model.get_parameter(name).float(), matrix), "powers of two are exact"
