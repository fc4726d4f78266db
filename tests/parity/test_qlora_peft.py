# SPDX-License-Identifier: Apache-2.0
"""QLoRA: the same adapter on the same codes as PEFT and bitsandbytes, in values and gradients; LoftQ's start."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import COMMON

from luthier.core.errors import RecipeError
from luthier.export.adapter import load_adapter
from luthier.kernels.quantized import Quantized
from luthier.methods import lora
from luthier.methods._lowrank import LinearUpdate
from luthier.models import load_model
from luthier.recipe.schema import Model

peft = pytest.importorskip("peft")
pytest.importorskip("bitsandbytes")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 58, 9, 7, 0, 31, 12]])
# bitsandbytes quantises the inputs of int8 layers too, so that its values are the less exact ones.
NEAR = {"nf4": 2e-5, "fp4": 2e-5, "int8": 0.05}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Hidden 64: of columns that are no multiple of 64, bitsandbytes 0.50 takes wrong scales on CPUs."""
    from transformers import AutoConfig, AutoModelForCausalLM

    place = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **COMMON | {"hidden_size": 64, "intermediate_size": 128})
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(place)
    return place


def ours_on(base, kind, dtype=torch.float32, **keys):
    section = Model(model_name_or_path=str(base), quantization=kind, **keys)
    return load_model(section, dtype, attention="eager")


def theirs_on(base, kind, double=False):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how = {"load_in_8bit": True}
    if kind != "int8":
        how = {"load_in_4bit": True, "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": double}
        how["bnb_4bit_compute_dtype"] = torch.float32
    return AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, device_map="cpu", attn_implementation="eager",
        quantization_config=BitsAndBytesConfig(**how),
    )  # fmt: skip


def shaken(trainable):
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainable.parameters().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return trainable


@pytest.mark.parametrize("keys", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_values_and_gradients_are_those_of_peft(base, tmp_path, kind, keys):
    double = {"bnb_4bit_use_double_quant": True} if kind == "nf4" else {}
    ours = shaken(lora.apply(ours_on(base, kind, **double), lora.Config(r=4, lora_alpha=8.0, **keys)))
    ours.save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(theirs_on(base, kind, bool(double)), tmp_path, is_trainable=True)
    found, near = [], NEAR[kind]
    for model in (ours.model, theirs):
        logits = model.train()(input_ids=IDS, use_cache=False).logits
        logits.logsumexp(-1).sum().backward()
        found.append(logits.detach())
    assert (found[0] - found[1]).abs().max() <= near * found[1].abs().max()
    there = dict(theirs.named_parameters())
    for name, parameter in ours.parameters().items():
        word = name.replace(".weight", ".default.weight")
        word = f"{word}.default.weight" if name.endswith("magnitude_vector") else word
        other = there[f"base_model.model.{word}"].grad
        assert (parameter.grad - other).norm() <= 5 * near * other.norm() + 1e-7, name


def test_an_adapter_that_peft_trained_loads_here(base, tmp_path):
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    theirs = peft.get_peft_model(peft.prepare_model_for_kbit_training(theirs_on(base, "nf4")), config)
    theirs.save_pretrained(tmp_path)
    ours = ours_on(base, "nf4")
    load_adapter(ours, tmp_path)
    # In training mode: asked without gradients, bitsandbytes computes in bfloat16 on some CPUs, 1 % away.
    got, wanted = (model.train()(input_ids=IDS, use_cache=False).logits for model in (ours, theirs))
    assert (got - wanted).abs().max() <= 2e-5 * wanted.abs().max()


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_loftq_starts_where_pefts_decomposition_does(base, kind):
    from peft.utils.loftq_utils import _low_rank_decomposition

    plain = load_model(Model(model_name_or_path=str(base)), torch.float32, attention="eager")
    ours = lora.apply(ours_on(base, kind), lora.Config(r=4, lora_alpha=4.0, init_lora_weights="loftq"))
    assert not ours.starts_as_base
    layers = {name: m for name, m in ours.model.named_modules() if isinstance(m, LinearUpdate)}
    assert len(layers) == 14
    for name, layer in layers.items():
        assert isinstance(layer.weight, Quantized)
        lost = plain.get_submodule(name).weight.detach() - layer.weight.dense()
        wanted = _low_rank_decomposition(lost, reduced_rank=4)
        torch.testing.assert_close(layer.lora_B @ layer.lora_A, wanted["L"] @ wanted["R"], atol=1e-5, rtol=0)


def test_loftq_comes_nearer_to_the_sixteen_bit_model_whatever_gamma_is(base):
    plain = load_model(Model(model_name_or_path=str(base)), torch.float32, attention="eager")
    far = []
    for keys in ({}, {"init_lora_weights": "loftq"}, {"init_lora_weights": "loftq", "lora_alpha": 2.0}):
        model = lora.apply(ours_on(base, "nf4"), lora.Config(r=16, **keys)).model
        with torch.no_grad():
            far.append(float((model(IDS).logits - plain(IDS).logits).norm()))
    assert far[1] < 0.8 * far[0]
    assert far[2] == pytest.approx(far[1], rel=1e-3)


def test_loftq_is_refused_where_it_has_nothing_to_make_good(base):
    with pytest.raises(RecipeError, match="loftq, on a base whose 16-bit numbers are not known"):
        lora.apply(ours_on(base, "none"), lora.Config(init_lora_weights="loftq"))
    with pytest.raises(RecipeError, match="use_dora: true, with init_lora_weights: loftq"):
        lora.apply(ours_on(base, "nf4"), lora.Config(init_lora_weights="loftq", use_dora=True))
