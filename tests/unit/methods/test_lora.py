# SPDX-License-Identifier: Apache-2.0
"""LoRA's own promises: dropout, numbers, ties, and errors that a reader can act on."""

from __future__ import annotations

import json

import pytest
import torch
from tests.tiny import tiny
from tests.unit.methods.lora_models import applied
from torch import nn

from luthier.methods import lora
from luthier.methods._lora_ends import LoraEmbedding, TiedLoraHead
from luthier.methods._lowrank import LoraLayer, LoraLinear, scaling_of

IDS = torch.arange(20)[None]


@torch.no_grad()
def logits_of(model) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits


@torch.no_grad()
def shaken(trainable):
    for parameter in trainable.parameters().values():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return trainable


@pytest.mark.parametrize(
    ("r", "alpha", "rslora", "wanted"), [(8, 32, False, 4), (16, 8, True, 2), (3, 1.5, False, 0.5)]
)
def test_scaling(r, alpha, rslora, wanted):
    assert scaling_of(r, alpha, rslora) == wanted
    layer = applied("llama", r=r, lora_alpha=float(alpha), use_rslora=rslora, target_modules=["q_proj"])
    assert layer.model.model.layers[0].self_attn.q_proj.scaling == wanted


@pytest.mark.parametrize("base", [nn.Linear(12, 7), nn.Linear(12, 7, bias=False)])
def test_the_formula(base):
    base.requires_grad_(False)
    layer = LoraLinear(base, r=3, scaling=0.7, dropout=0.0)
    with torch.no_grad():
        layer.lora_B.normal_()
    x = torch.randn(5, 12)
    wanted = base(x) + 0.7 * (x @ layer.lora_A.T @ layer.lora_B.T)
    assert torch.allclose(layer(x), wanted, atol=1e-6)
    assert torch.allclose(layer.merge()(x), wanted, atol=1e-6)


def test_a_merge_rounds_once():
    """W + update in float32, then bfloat16: half a unit in the last place, where adding bfloat16 numbers costs more."""
    base = nn.Linear(64, 64, bias=False).to(torch.bfloat16).requires_grad_(False)
    layer = LoraLinear(base, r=4, scaling=1.0, dropout=0.0)
    with torch.no_grad():
        layer.lora_B.normal_(std=0.01)
    exact = base.weight.double() + (layer.lora_B.double() @ layer.lora_A.double())
    got = layer.merge().weight
    assert got.dtype == torch.bfloat16
    ulp = 2.0 ** (torch.floor(torch.log2(exact.abs())) - 7)
    assert ((got.double() - exact).abs() <= 0.5001 * ulp).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_adapters_are_never_narrower_than_float32(dtype):
    trainable = lora.apply(tiny("tied").to(dtype), lora.Config(r=4, target_modules=["embed_tokens", "q_proj"]))
    wide = torch.promote_types(dtype, torch.float32)
    assert {p.dtype for p in trainable.parameters().values()} == {wide}
    assert logits_of(trainable.model).dtype == dtype


def test_whole_modules_keep_the_models_type():
    """The next layer multiplies what they give; float32 there would not fit a bfloat16 weight."""
    model = tiny("llama").to(torch.bfloat16)
    trainable = lora.apply(model, lora.Config(r=4, modules_to_save=["embed_tokens", "lm_head", "norm"]))
    assert logits_of(model).dtype == torch.bfloat16
    assert trainable.parameters()["lm_head.weight"].dtype == torch.bfloat16


def test_any_module_can_be_adapted():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(4, 6)
    before = model(x)
    trainable = shaken(lora.apply(model, lora.Config(r=2, target_modules=["0", "2"], bias="all")))
    after = model(x)
    assert not torch.allclose(before, after)
    with trainable.disabled():
        assert torch.equal(model(x), before)
    assert torch.allclose(trainable.merge()(x), after, atol=1e-6)


def test_dropout_only_touches_the_low_rank_branch():
    """With B = 0 nothing of the branch is seen, so a train-mode forward with dropout is the base, to the bit."""
    trainable = applied("llama", lora_dropout=0.5)
    wanted = logits_of(tiny("llama"))
    trainable.model.train()
    assert torch.equal(logits_of(trainable.model), wanted)


def test_dropout_draws_from_the_seed_and_sleeps_in_evaluation():
    trainable = shaken(applied("llama", lora_dropout=0.5, target_modules=["q_proj", "lm_head"]))
    model = trainable.model.train()
    torch.manual_seed(1)
    first = logits_of(model)
    second = logits_of(model)
    torch.manual_seed(1)
    assert torch.equal(logits_of(model), first)
    assert not torch.equal(second, first)
    model.eval()
    assert torch.equal(logits_of(model), logits_of(model))


def test_dropout_is_the_formula():
    layer = LoraLinear(nn.Linear(12, 7).requires_grad_(False), r=3, scaling=2.0, dropout=0.4).train()
    with torch.no_grad():
        layer.lora_B.normal_()
    x = torch.randn(5, 12, requires_grad=True)
    torch.manual_seed(5)
    layer(x).square().sum().backward()
    got = (x.grad, layer.lora_A.grad, layer.lora_B.grad)
    x2, a, b = (t.detach().clone().requires_grad_() for t in (x, layer.lora_A, layer.lora_B))
    torch.manual_seed(5)
    (layer.base_layer(x2) + 2.0 * (nn.functional.dropout(x2, 0.4) @ a.T @ b.T)).square().sum().backward()
    for ours, wanted in zip(got, (x2.grad, a.grad, b.grad), strict=True):
        assert torch.allclose(ours, wanted, atol=1e-4, rtol=1e-5)


def _tied(model) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize(
    "keys",
    [
        {"target_modules": ["lm_head"]},
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["lm_head", "embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
    ],
)
def test_one_end_of_a_tied_model(keys, tmp_path):
    """It is that end's alone; merging makes two matrices, which saving and loading keep."""
    trainable = shaken(applied("tied", **keys))
    trained = logits_of(trainable.model)
    merged = trainable.merge()
    assert not _tied(merged)
    assert merged.config.tie_word_embeddings is False
    merged.save_pretrained(tmp_path)
    again = type(merged).from_pretrained(tmp_path)
    assert not _tied(again)
    assert (logits_of(again) - trained).abs().max() <= 1e-5


@pytest.mark.parametrize(
    "keys",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["lm_head"], "ensure_weight_tying": True},
        {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ],
)
def test_a_tied_model_stays_tied(keys, tmp_path):
    trainable = shaken(applied("tied", **keys))
    trained = logits_of(trainable.model)
    merged = trainable.merge()
    assert _tied(merged)
    merged.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is True
    again = type(merged).from_pretrained(tmp_path)
    assert _tied(again)
    assert (logits_of(again) - trained).abs().max() <= 2e-5


@pytest.mark.parametrize("keys", [{"target_modules": ["lm_head"]}, {"modules_to_save": ["lm_head"]}])
def test_an_update_of_nothing_unties_nothing(keys):
    merged = applied("tied", **keys).merge()
    assert _tied(merged)
    assert merged.config.tie_word_embeddings is True


def test_a_shared_update_is_counted_once():
    trainable = applied("tied", target_modules=["lm_head"], ensure_weight_tying=True)
    assert set(trainable.parameters()) == {"model.embed_tokens.lora_embedding_A", "model.embed_tokens.lora_embedding_B"}
    layers = [module for module in trainable.model.modules() if isinstance(module, LoraLayer)]
    assert {type(layer) for layer in layers} == {LoraEmbedding, TiedLoraHead}
    whole = applied("tied", modules_to_save=["lm_head"], target_modules=["q_proj"], ensure_weight_tying=True)
    assert "model.embed_tokens.weight" in whole.parameters()
    assert "lm_head.weight" not in whole.parameters()


def test_the_other_end_keeps_its_numbers():
    trainable = shaken(applied("tied", modules_to_save=["lm_head"], target_modules=["q_proj"]))
    assert torch.equal(trainable.model.get_input_embeddings().weight, tiny("tied").get_input_embeddings().weight)


@pytest.mark.parametrize("keys", [{"bias": "all"}, {"bias": "lora_only"}, {"modules_to_save": ["norm", "lm_head"]}])
def test_off_means_the_base_also_for_what_trains_whole(keys):
    trainable = shaken(applied("qwen2", **keys))
    trained = logits_of(trainable.model)
    with trainable.disabled():
        assert torch.equal(logits_of(trainable.model), logits_of(tiny("qwen2")))
    assert torch.equal(logits_of(trainable.model), trained)


def test_it_is_on_again_after_an_error():
    trainable = shaken(applied("llama"))
    trained = logits_of(trainable.model)
    with pytest.raises(ZeroDivisionError), trainable.disabled():
        raise ZeroDivisionError
    assert torch.equal(logits_of(trainable.model), trained)


def test_off_inside_off():
    trainable = shaken(applied("llama", modules_to_save=["lm_head"]))
    base = logits_of(tiny("llama"))
    with trainable.disabled():
        with trainable.disabled():
            assert torch.equal(logits_of(trainable.model), base)
        assert torch.equal(logits_of(trainable.model), base)
