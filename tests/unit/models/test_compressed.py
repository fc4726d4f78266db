# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of compressed-tensors (llm-compressor): the weights that transformers reads, and updates beside them."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import COMMON
from transformers import AutoConfig, AutoModelForCausalLM

from luthier.core.errors import ModelError
from luthier.methods import lora
from luthier.models import load_model
from luthier.models.quantized import is_quantized, told
from luthier.recipe.schema import Model

pytest.importorskip("compressed_tensors")
pytestmark = pytest.mark.filterwarnings("ignore")


def write(folder, *, inputs: bool = False):
    """A tiny Llama in 4 bits with a scale for each 32 numbers, as llm-compressor writes it."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )

    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **COMMON | {"hidden_size": 64, "intermediate_size": 96})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    four = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=32)
    more = (
        {"input_activations": QuantizationArgs(num_bits=8, type="int", dynamic=True, strategy="token")}
        if inputs
        else {}
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=four, **more)
    how = QuantizationConfig(
        config_groups={"all": scheme}, ignore=["lm_head"], format="pack-quantized", quantization_status="compressed"
    )
    apply_quantization_config(model, how)
    for module in model.modules():
        if hasattr(module, "quantization_scheme"):
            groups = module.weight.data.view(len(module.weight), -1, 32)
            module.weight_scale.data = (groups.abs().amax(-1) / 7.5).to(module.weight_scale.dtype)
            module.quantization_status = "frozen"
    compressor = ModelCompressor(quantization_config=how)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)


def test_values_are_those_of_transformers_and_updates_train(tmp_path):
    write(tmp_path)
    ours = load_model(Model(model_name_or_path=str(tmp_path)), torch.float32, attention="eager")
    assert told(ours).startswith(", 14 matrices in ")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager")
    ids = torch.tensor([[3, 5, 8, 1, 13]])
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)
    assert is_quantized(ours), "still in few bits after its first pass"
    trainable = lora.apply(ours, lora.Config(r=4))
    trainable.model(ids).logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in trainable.parameters().values())


def test_quantised_inputs_are_refused(tmp_path):
    write(tmp_path, inputs=True)
    with pytest.raises(ModelError, match="whose activations are quantised as well"):
        load_model(Model(model_name_or_path=str(tmp_path)), torch.float32)
