# SPDX-License-Identifier: Apache-2.0
"""GPTQ's and AWQ's files, written here number by number as their layouts say, and read as matrices in few bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import COMMON
from transformers import AutoConfig, AutoModelForCausalLM

from luthier.core.errors import ModelError
from luthier.kernels.quantized import Blocks, Quantized, plain_blocks
from luthier.methods import lora
from luthier.models import load_model
from luthier.models.probe import prove_forest
from luthier.models.quantized import is_quantized
from luthier.recipe.schema import Model

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def words(codes: list[int], bits: int, order=None) -> list[int]:
    """Codes in 32-bit words, as signed numbers."""
    found, each = [], 32 // bits
    for start in range(0, len(codes), each):
        some = codes[start : start + each]
        word = sum(some[order[i] if order else i] << bits * i for i in range(each))
        found.append(word - 2**32 if word >= 2**31 else word)
    return found


def write(folder: Path, layout: str, *, bits: int = 4, group: int = 32, desc_act: bool = False, **told):
    """A tiny Llama with random codes: a folder, and the dense matrices in float64 by their names."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **COMMON | {"hidden_size": 64, "intermediate_size": 96})
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tensors, dense = load_file(folder / "model.safetensors"), {}
    for name in [name for name in tensors if "_proj.weight" in name]:
        rows, columns = tensors.pop(name).shape  # N, K
        codes = torch.randint(0, 2**bits, (rows, columns))
        groups = torch.arange(columns) // group
        if desc_act:
            groups = groups[torch.randperm(columns)]
        zeros = torch.randint(1, 2**bits, (columns // group, rows))
        scales = (torch.rand(columns // group, rows) * 0.02 + 0.001).half()
        dense[name] = (codes - zeros[groups].T).double() * scales.double()[groups].T
        base, order = name.removesuffix("weight"), AWQ_ORDER if layout == "awq" else None
        stored = zeros - int(layout == "gptq" and told.get("checkpoint_format", "gptq") == "gptq")
        packed = [words(row, bits, order) for row in (codes.T if order else codes).tolist()]
        tensors[f"{base}qweight"] = torch.tensor(packed, dtype=torch.int32)
        if not order:  # several rows of one column in a word
            tensors[f"{base}qweight"] = tensors[f"{base}qweight"].T.contiguous()
            tensors[f"{base}g_idx"] = groups.to(torch.int32)
        tensors[f"{base}qzeros"] = torch.tensor([words(row, bits, order) for row in stored.tolist()], dtype=torch.int32)
        tensors[f"{base}scales"] = scales
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    file = folder / "config.json"
    how = {"quant_method": layout, "bits": bits, "group_size": group, "desc_act": desc_act, **told}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": how}))
    return dense


CASES = {
    "gptq": ("gptq", {}),
    "act-order": ("gptq", {"desc_act": True, "sym": False}),
    "v2": ("gptq", {"checkpoint_format": "gptq_v2", "group": 16}),
    "8 bits": ("gptq", {"bits": 8}),
    "awq": ("awq", {"version": "gemm", "zero_point": True}),
}


@pytest.mark.parity
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_the_layout(case, dtype, tmp_path):
    layout, keys = CASES[case]
    dense = write(tmp_path, layout, **keys)
    model = load_model(Model(model_name_or_path=str(tmp_path)), dtype)
    assert sum(isinstance(p, Quantized) for p in model.parameters()) == len(dense) == 14
    for name, wanted in dense.items():
        matrix = model.get_parameter(name)
        assert isinstance(matrix, Quantized)
        bound = 2**-8 if dtype == torch.bfloat16 else 1e-6
        torch.testing.assert_close(matrix.dense().double(), wanted, rtol=bound, atol=1e-9)
        assert torch.equal(matrix.dense(), plain_blocks(matrix.store, dtype))
    assert model.lm_head.weight.dtype == model.dtype == dtype
    assert prove_forest(model, case) <= (0.25 if dtype == torch.bfloat16 else 1e-4)
    assert "quantization_config" not in model.config.to_dict()


def test_low_rank_updates_train_on_it(tmp_path):
    write(tmp_path, "gptq")
    model = load_model(Model(model_name_or_path=str(tmp_path)), torch.float32, attention="eager")
    trainable = lora.apply(model, lora.Config(r=4, target_modules=["q_proj"]))
    trainable.model(torch.tensor([[3, 5, 8, 1]])).logits.square().sum().backward()
    assert is_quantized(trainable.model)
    assert all(parameter.grad is not None for parameter in trainable.parameters().values())


@pytest.mark.parametrize(
    ("layout", "told", "text"),
    [
        (
            "gptq",
            {"bits": 3},
            "a gptq checkpoint of 3 bits in the layout 'gptq'; gptq of 4 or 8 bits in gptq or gptq_v2",
        ),
        ("gptq", {"checkpoint_format": "marlin"}, "a gptq checkpoint of 4 bits in the layout 'marlin'"),
        ("awq", {"version": "gemv"}, "an? awq checkpoint of 4 bits in the layout 'gemv'; awq of 4 bits in gemm"),
    ],
)
def test_other_layouts_are_refused(layout, told, text, tmp_path):
    write(tmp_path, layout)
    file = tmp_path / "config.json"
    tree = json.loads(file.read_text())
    file.write_text(json.dumps(tree | {"quantization_config": tree["quantization_config"] | told}))
    with pytest.raises(ModelError, match=text):
        load_model(Model(model_name_or_path=str(tmp_path)), torch.float32)


def test_a_store_with_zeros_moves_as_one(tmp_path):
    store = Blocks(
        shape=(2, 4), codes=torch.tensor([1, 2, 3, 4], dtype=torch.uint8), table=torch.arange(16.0), block=4,
        zeros=torch.tensor([8.0, 7.0]), order=torch.tensor([1, 0, 3, 2]), absmax=torch.tensor([0.5, 2.0]),
    )  # fmt: skip
    wanted = torch.tensor([[-3.5, -4.0, -3.0, -4.0], [-8.0, -14.0, -6.0, -14.0]])
    assert torch.equal(store.dense(torch.float32), wanted)
    assert torch.equal(store.to(torch.device("cpu")).dense(torch.float32), wanted)
