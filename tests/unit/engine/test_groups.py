# SPDX-License-Identifier: Apache-2.0
"""Groups of parameters: which words mean which parameters, what wins, layer-wise decay, and what is refused."""

from __future__ import annotations

import json
import re

import pytest
import torch
from tests.runs import bits, stop_before, tree
from tests.tiny import tiny
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

import luthier
from luthier.core import registry
from luthier.core.errors import RecipeError
from luthier.engine.groups import resolve_groups, say_groups, table
from luthier.engine.optim import build_optimizer, set_learning_rate
from luthier.methods import full
from luthier.recipe import load_recipe
from luthier.run import preview

RATE = 1e-3


def applied(family="llama", name="full", **keys):
    torch.manual_seed(0)
    method = registry.get("methods", name)
    return method.apply(tiny(family), method.Config(**keys))


def optim_of(**keys):
    bare = {"model": {"model_name_or_path": "x"}, "data": {"train": "x"}}
    return load_recipe(bare | {"optim": {"learning_rate": RATE} | keys}).recipe.optim


def rates(optim, trainable):
    """Name -> learning rate and weight decay."""
    return {
        name: (pytest.approx(optim.learning_rate * group.scale, rel=1e-12), group.weight_decay)
        for group in resolve_groups(optim, trainable)
        for name in group.parameters
    }


def chosen(word, trainable):
    groups = resolve_groups(optim_of(groups={"parameters": word, "learning_rate": 0.5}), trainable)
    return {name for group in groups if group.scale * RATE == 0.5 for name in group.parameters}


def test_one_rate_is_one_group():
    trainable = applied()
    assert [row["parameters"] for row in table(optim_of(), trainable)] == ["all others"]
    decayed = table(optim_of(weight_decay=0.1), trainable)
    assert [row["weight_decay"] for row in decayed] == [0.1, 0.0]
    assert sum(row["numbers"] for row in decayed) == trainable.num_trainable
    said = []
    say_groups(optim_of(), trainable, said.append)
    assert said == []


@pytest.mark.parametrize(
    ("family", "word", "wanted"),
    [
        ("llama", "embeddings", lambda n: "embed_tokens" in n),
        ("llama", "head", lambda n: n == "lm_head.weight"),
        ("tied", "head", lambda n: "embed_tokens" in n),
        ("tied", "embeddings", lambda n: "embed_tokens" in n),
        ("gpt2", "embeddings", lambda n: "wte" in n or "wpe" in n),
        ("gpt2", "norms", lambda n: ".ln_" in n),
        ("gpt2", "biases", lambda n: n.endswith(".bias")),
        ("llama", "norms", lambda n: "norm" in n),
        ("llama", "attention", lambda n: ".self_attn." in n),
        ("gpt2", "mlp", lambda n: ".mlp." in n),
        ("llama", "layers[1]", lambda n: ".layers.1." in n),
        ("llama", "layers[0-1]", lambda n: ".layers." in n),
        ("gpt2", "layers[0]", lambda n: ".h.0." in n),
        ("llama", "q_proj|v_proj", lambda n: "q_proj" in n or "v_proj" in n),
        ("llama", r"^lm_head\.", lambda n: n == "lm_head.weight"),
    ],
)
def test_words(family, word, wanted):
    trainable = applied(family)
    names = {name for name in trainable.parameters() if wanted(name)}
    assert names
    assert chosen(word, trainable) == names


LORA = {"r": 2, "target_modules": ["q_proj", "embed_tokens", "lm_head"], "modules_to_save": ["norm"]}


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("embeddings", {"model.embed_tokens.lora_embedding_A", "model.embed_tokens.lora_embedding_B"}),
        ("head", {"lm_head.lora_A.weight", "lm_head.lora_B.weight"}),
        ("norms", {"model.norm.weight"}),
        ("attention", {f"model.layers.{k}.self_attn.q_proj.lora_{x}.weight" for k in (0, 1) for x in "AB"}),
        ("layers[1]", {f"model.layers.1.self_attn.q_proj.lora_{x}.weight" for x in "AB"}),
    ],
)
@pytest.mark.parametrize("dora", [False, True])
def test_an_update_belongs_to_what_it_updates(word, wanted, dora):
    found = chosen(word, applied(name="lora", use_dora=dora, **LORA))
    assert {name for name in found if "magnitude" not in name} == wanted
    assert len(found) > len(wanted) or not dora or word == "norms"


def test_a_later_group_goes_over_an_earlier_one_key_by_key():
    trainable = applied()
    groups = [
        {"parameters": ["attention", "norms"], "learning_rate_scale": 0.5, "weight_decay": 0.3},
        {"parameters": "layers[1]", "learning_rate": 0.01},
        {"parameters": "norms", "weight_decay": 0.0},
    ]
    optim = optim_of(weight_decay=0.1, groups=groups)
    found = rates(optim, trainable)
    assert found["model.layers.0.self_attn.q_proj.weight"] == (RATE / 2, 0.3)
    assert found["model.layers.1.self_attn.q_proj.weight"] == (0.01, 0.3)
    assert found["model.layers.1.input_layernorm.weight"] == (0.01, 0.0)
    assert found["model.norm.weight"] == (RATE / 2, 0.0)
    assert found["model.layers.0.mlp.up_proj.weight"] == (RATE, 0.1)
    assert found["model.layers.1.mlp.up_proj.weight"] == (0.01, 0.1)
    said = []
    say_groups(optim, trainable, said.append)
    assert said[0] == "  all others: learning rate 0.001, weight decay 0.1, 5 tensors, 8,448 numbers"
    assert "  layers[1] + attention, norms: learning rate 0.01, weight decay 0.3, 4 tensors, 3,072 numbers" in said


@pytest.mark.parametrize("family", ["llama", "tied", "gpt2"])
def test_layer_decay(family):
    """Head and last norm whole, layer k of 2 by 0.5^(2 - k), embeddings by 0.5^3."""
    found = rates(optim_of(layer_decay=0.5), applied(family))
    for name, (rate, _) in found.items():
        place = 3 if any(word in name for word in ("embed_tokens", "wte", "wpe")) else 0
        place = {".0.": 2, ".1.": 1}.get(next((k for k in (".0.", ".1.") if k in name), ""), place)
        assert rate == RATE * 0.5**place, name


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_the_encoders_layers_lie_below_the_decoders(kind):
    config = {"t5": {"d_model": 16, "d_ff": 16, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 2, "d_kv": 8}}
    sizes = {"encoder_layers": 3, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    config["bart"] = {"d_model": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2, **sizes}
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(kind, vocab_size=20, **config[kind]))
    trainable = full.apply(model, full.Config())
    found = rates(optim_of(layer_decay=0.5), trainable)
    for name, (rate, _) in found.items():
        place = re.search(r"(encoder|decoder)\.(?:block|layers)\.(\d)", name)
        steps = (2 if place[1] == "decoder" else 5) - int(place[2]) if place else 6 if "shared" in name else None
        assert steps is None or rate == RATE * 0.5**steps, name
    both = chosen("layers[1]", trainable)
    assert {re.search("encoder|decoder", name)[0] for name in both} == {"encoder", "decoder"}
    assert {re.search("encoder|decoder", name)[0] for name in chosen("layers[2]", trainable)} == {"encoder"}


def test_the_norm_of_embeddings_is_with_them():
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = AutoConfig.for_model("bert", vocab_size=20, **sizes)
    trainable = full.apply(AutoModelForSequenceClassification.from_config(config), full.Config())
    found = rates(optim_of(layer_decay=0.5), trainable)
    assert {name for name, (rate, _) in found.items() if rate == RATE * 0.5**3} == {
        name for name in found if name.startswith("bert.embeddings.")
    }
    assert {name.split(".")[-2] for name, (rate, _) in found.items() if rate == RATE} == {"dense", "classifier"}


def test_layer_decay_against_sgd_in_float64():
    """Three steps of w - rate_t 0.9^(L - l) g, written out."""
    trainable = applied("llama")
    optim = optim_of(optim="sgd", layer_decay=0.9, groups={"parameters": "q_proj", "learning_rate_scale": 3.0})
    parameters = trainable.parameters()
    optimizer = build_optimizer(optim, trainable, parameters)
    wanted = {name: p.detach().double().clone() for name, p in parameters.items()}
    power = {"model.embed_tokens.weight": 3, "model.norm.weight": 0, "lm_head.weight": 0}
    for step in range(1, 4):
        draw = torch.Generator().manual_seed(step)
        for name, p in parameters.items():
            p.grad = torch.randn(p.shape, generator=draw)
            times = 3.0 if "q_proj" in name else 1.0
            steps = power.get(name, 2 if ".layers.0." in name else 1)
            wanted[name] -= RATE * step * times * 0.9**steps * p.grad.double()
        set_learning_rate(optimizer, RATE * step)
        optimizer.step()
    assert max(float((parameters[name].detach() - wanted[name]).abs().max()) for name in wanted) < 1e-6


REFUSED = [
    ("full", {"groups": {"parameters": "embedings", "learning_rate": 1.0}}, "did you mean 'embeddings'"),
    ("lora", {"groups": {"parameters": "norms", "learning_rate": 1.0}}, "what trains is attention, mlp; names end in"),
    ("full", {"groups": {"parameters": "layers[2]", "learning_rate": 1.0}}, "layers\\[0\\] to layers\\[1\\]"),
    ("full", {"groups": {"parameters": "layers[", "learning_rate": 1.0}}, "is no regular expression"),
    ("full", {"loraplus_lr_ratio": 16}, "this method trains no lora_B"),
    ("prompt", {"layer_decay": 0.9}, "at one depth"),
    (
        "full",
        {"groups": [{"parameters": "q_proj", "learning_rate": 1.0}, {"parameters": "attention", "learning_rate": 2.0}]},
        "optim.groups.0: q_proj: later groups go over all",
    ),
    ("lora", {"weights": "bfloat16_stochastic"}, "nothing that trains is bfloat16"),
]


@pytest.mark.parametrize(("name", "keys", "said"), REFUSED)
def test_what_has_no_effect_is_refused(name, keys, said):
    from luthier.engine.optim import tell_optim

    with pytest.raises(RecipeError, match=said):
        tell_optim(optim_of(**keys), applied(name=name), print)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ({"parameters": "head"}, "optim.groups.0"),
        ({"parameters": "head", "learning_rate": 1.0, "learning_rate_scale": 2.0}, "learning_rate or"),
        ({"parameters": [], "learning_rate": 1.0}, "optim.groups.0.parameters"),
        ({"parameters": "head", "lr": 1.0}, "optim.groups.0.lr: unknown key"),
    ],
)
def test_a_group_says_one_thing_at_least(group, said):
    with pytest.raises(RecipeError, match=said):
        optim_of(groups=[group])


def test_many_rows_are_said_in_short():
    said = []
    groups = [{"parameters": f"{word}_proj", "weight_decay": 0.1} for word in ("q", "k", "v", "o", "up", "down")]
    optim, trainable = optim_of(layer_decay=0.9, groups=groups, weight_decay=0.01), applied()
    say_groups(optim, trainable, said.append)
    assert len(said) == 13
    assert said[6] == f"  ... {len(table(optim, trainable)) - 12} more groups; summary.json lists all"


def test_a_run_with_groups_is_stopped_resumed_and_told(tiny_llama, alpaca_file, tmp_path):
    def recipe(folder, **optim):
        train = {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 2}
        keys = {"loraplus_lr_ratio": 8, "layer_decay": 0.8, "weight_decay": 0.1}
        keys |= {"groups": [{"parameters": "layers[1]", "weight_decay": 0.0}]} | optim
        return tree(tiny_llama, alpaca_file, tmp_path / folder, optim=keys, train=train)

    said = []
    luthier.train(recipe("whole"), say=said.append)
    stop_before(3, recipe("stopped"))
    luthier.train(recipe("stopped"), resume=True)
    assert bits(tmp_path / "whole") == bits(tmp_path / "stopped")
    luthier.train(recipe("other", loraplus_lr_ratio=4))
    assert bits(tmp_path / "whole") != bits(tmp_path / "other")
    rows = json.loads((tmp_path / "whole" / "summary.json").read_text())["parameter_groups"]
    assert [row["parameters"] for row in rows] == [
        "layers[0]", "layers[0] + lora_B", "layers[1]", "layers[1] + lora_B"
    ]  # fmt: skip
    assert rows[1]["learning_rate"] == pytest.approx(1e-3 * 8 * 0.64)
    assert [row["weight_decay"] for row in rows] == [0.1, 0.1, 0.0, 0.0]
    assert sum(line.startswith("  layers[") for line in said) == 4


def test_a_dry_run_refuses_too(tiny_llama, alpaca_file, tmp_path):
    groups = {"groups": [{"parameters": "lora_C", "learning_rate": 1.0}]}
    with pytest.raises(RecipeError, match="lora_C"):
        preview(tree(tiny_llama, alpaca_file, tmp_path / "run", optim=groups))
    assert not (tmp_path / "run").exists()
