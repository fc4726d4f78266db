# SPDX-License-Identifier: Apache-2.0
"""Bottleneck adapters against the formula, written as hooks on the plain model; where they stand; what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from tests.reward import shake
from tests.tiny import tiny
from transformers import AutoConfig, AutoModelForCausalLM

from luthier.core.errors import ModelError, RecipeError, UserError
from luthier.export.adapter import fill_adapter, load_adapter
from luthier.methods import adapter

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
ENDS = {
    "llama": ("model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp"),
    "gemma3": ("model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp"),
    "gpt2": ("transformer.h.{}.attn.c_proj", "transformer.h.{}.mlp"),
    "neox": ("gpt_neox.layers.{}.attention.dense", "gpt_neox.layers.{}.mlp"),
    "experts": ("model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp"),
}


def opt():
    config = AutoConfig.for_model(
        "opt", vocab_size=20, hidden_size=8, ffn_dim=8, num_hidden_layers=2, num_attention_heads=2,
        word_embed_proj_dim=8, max_position_embeddings=16,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS, use_cache=False).logits


def exact(family: str) -> torch.dtype:
    """torch multiplies stacked experts in float32 at most."""
    return torch.float32 if family == "experts" else torch.float64


def by_hand(family: str, trained: dict, config: adapter.Config):
    """The plain model with hooks, and copies of the parameters that they use."""
    model = tiny(family).to(exact(family)).requires_grad_(False)
    copies = {name: p.detach().clone().requires_grad_(True) for name, p in trained.items()}
    phi = {"relu": lambda x: x.clamp_min(0), "silu": lambda x: x / (1 + torch.exp(-x)), "tanh": torch.tanh}
    attention, mlp = ENDS[family]
    for site in [mlp] if config.placement != "houlsby" else [attention, mlp]:
        for number in range(2):
            name = site.format(number)
            down, b, up, c = (
                copies[f"{name}.adapter_{part}"] for part in ("down.weight", "down.bias", "up.weight", "up.bias")
            )

            def hook(_, given, y, down=down, b=b, up=up, c=c):
                x = given[0] if config.placement == "parallel" else y
                return y + config.scaling * (phi[config.non_linearity](x @ down.T + b) @ up.T + c)

            model.get_submodule(name).register_forward_hook(hook)
    return model, copies


@pytest.mark.parametrize("family", ENDS)
@pytest.mark.parametrize(
    "keys",
    [
        {"placement": "houlsby", "non_linearity": "silu", "reduction_factor": 8.0},
        {"placement": "pfeiffer"},
        {"placement": "parallel", "scaling": 4.0, "non_linearity": "tanh", "reduction_factor": 5.0},
    ],
)
def test_outputs_and_gradients_are_the_formulas(family, keys):
    config = adapter.Config(**keys)
    model, bound = tiny(family).to(exact(family)), 1e-10 if exact(family) == torch.float64 else 2e-5
    before = logits(model).detach()
    trainable = adapter.apply(model, config)
    assert torch.equal(logits(model), before)
    trained = trainable.parameters()
    shake(trained.values())
    plain, copies = by_hand(family, trained, config)
    wanted, got = logits(plain), logits(model)
    assert len(copies) == len(trained) == 4 * 2 * (2 if config.placement == "houlsby" else 1)
    assert (got - before).abs().max() > 0.02
    torch.testing.assert_close(got, wanted, atol=bound, rtol=0)
    torch.log_softmax(wanted, -1)[..., 5].sum().backward()
    torch.log_softmax(got, -1)[..., 5].sum().backward()
    for name, parameter in trained.items():
        torch.testing.assert_close(parameter.grad, copies[name].grad, atol=bound, rtol=0, msg=name)
    with trainable.disabled():
        assert torch.equal(logits(model), before)


def test_sizes_and_layers():
    trained = adapter.apply(tiny("llama"), adapter.Config(reduction_factor=10.0, layers_to_transform=[1])).parameters()
    assert {name: tuple(p.shape) for name, p in trained.items()} == {
        "model.layers.1.mlp.adapter_down.weight": (3, 32),
        "model.layers.1.mlp.adapter_down.bias": (3,),
        "model.layers.1.mlp.adapter_up.weight": (32, 3),
        "model.layers.1.mlp.adapter_up.bias": (32,),
    }
    (least,) = {p.shape[0] for n, p in _named(tiny("llama"), reduction_factor=1000.0) if n.endswith("down.weight")}
    assert least == 1


def _named(model, **keys):
    return adapter.apply(model, adapter.Config(**keys)).parameters().items()


def test_float32_beside_a_bfloat16_base():
    trainable = adapter.apply(tiny("llama").bfloat16(), adapter.Config())
    assert {p.dtype for p in trainable.parameters().values()} == {torch.float32}
    shake(trainable.parameters().values())
    assert logits(trainable.model).dtype == torch.bfloat16


def test_an_mlp_without_a_module_gets_its_adapter_behind_its_last_linear():
    """OPT's layers hold fc1 and fc2 themselves."""
    names = {name.split(".adapter")[0] for name, _ in _named(opt(), placement="houlsby")}
    layers = [f"model.decoder.layers.{n}" for n in range(2)]
    assert names == {f"{layer}.{end}" for layer in layers for end in ("self_attn.out_proj", "fc2")}
    with pytest.raises(
        RecipeError, match=r"parallel, and no MLP is found in model.decoder.layers.0, a OPTDecoderLayer"
    ):
        adapter.apply(opt(), adapter.Config(placement="parallel"))


def test_it_is_not_merged_and_says_why():
    with pytest.raises(UserError, match=r"merge: bottleneck adapters, with relu .*keep the adapter beside its base"):
        adapter.apply(tiny("llama"), adapter.Config()).merge()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"layers_to_transform": [2]}, "layer 2; layers 0 to 1"),
        ({"layers_to_transform": []}, "no layer; layers 0 to 1"),
        ({"modules_to_save": ["mlp"]}, "model.layers.0.mlp, where an adapter stands"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_touched(keys, said):
    model = tiny("llama")
    before = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    with pytest.raises(RecipeError, match=said):
        adapter.apply(model, adapter.Config(**keys))
    assert {name: (id(p), p.requires_grad) for name, p in model.named_parameters()} == before


def test_other_settings_than_the_folders_are_refused(tmp_path):
    """The tensors of `pfeiffer` and `parallel` have the same names and shapes, and make different functions."""
    trainable = adapter.apply(tiny("llama"), adapter.Config())
    shake(trainable.parameters().values())
    trainable.save(tmp_path)
    for keys in ({"placement": "parallel"}, {"non_linearity": "gelu"}, {"scaling": 2.0}):
        with pytest.raises(RecipeError, match=r"write placement: pfeiffer, non_linearity: relu, scaling: 1.0"):
            fill_adapter(adapter.apply(tiny("llama"), adapter.Config(**keys)), tmp_path)
    again = adapter.apply(tiny("llama"), adapter.Config())
    fill_adapter(again, tmp_path)
    assert torch.equal(logits(again.model), logits(trainable.model))
    file = tmp_path / "luthier_adapter.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"config": {"reduction_factor": 8.0}}))
    with pytest.raises(ModelError, match="has shape"):
        load_adapter(tiny("llama"), tmp_path)
