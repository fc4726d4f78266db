# SPDX-License-Identifier: Apache-2.0
"""Axolotl's recipes: adapter, rows by type, reinforcement learning from pairs, and how often things happen."""

from __future__ import annotations

import pytest
from tests.unit.recipe.foreign_recipes import AXOLOTL

from luthier.recipe import load_recipe
from luthier.recipe.dialects import axolotl
from luthier.recipe.text import parse

BARE = {"base_model": "m", "datasets": [{"path": "rows", "type": "alpaca"}]}


def tree_of(**keys):
    found = axolotl.translate(BARE | keys)
    assert [str(error) for error in found.refused] == []
    return found.tree


def refusal(**keys):
    (error,) = axolotl.translate(BARE | keys).refused
    return str(error)


def test_a_whole_recipe():
    resolved = load_recipe(parse(AXOLOTL))
    recipe = resolved.recipe
    assert recipe.model.model_name_or_path == "some/base-model"
    assert [(s.path, s.format) for s in recipe.data.train] == [("some/instructions", "alpaca")]
    assert (recipe.data.max_length, recipe.data.packing, recipe.data.truncation) == (512, True, "refuse")
    assert (recipe.method["name"], recipe.method["r"], recipe.method["target_modules"]) == ("lora", 32, "all-linear")
    assert (recipe.train.per_device_train_batch_size, recipe.train.num_train_epochs) == (2, 1)
    assert (recipe.optim.warmup_steps, recipe.optim.lr_scheduler_type) == (10, "cosine")
    assert recipe.train.report_to == ("wandb",)
    notes = "\n".join(resolved.notes)
    assert "saves_per_epoch: saved at the end only" in notes
    assert "wandb_entity" in notes


def test_defaults_that_change_weights_are_axolotls():
    tree = tree_of()
    assert tree["method"] == {"name": "full"}
    assert tree["data"] == {
        "train": [{"path": "rows", "format": "alpaca"}],
        "packing": False,
        "truncation": "refuse",
        "max_length": 512,
    }
    assert tree["optim"] == {"lr_scheduler_type": "cosine"}
    assert tree["train"]["per_device_train_batch_size"] == 1


@pytest.mark.parametrize(
    ("entry", "source"),
    [
        ({"type": "sharegpt"}, {"format": "sharegpt"}),
        ({"type": "chat_template"}, {"format": "messages"}),
        (
            {"type": "chat_template", "field_messages": "conversations", "message_property_mappings": {"role": "from"}},
            {"format": "sharegpt"},
        ),
        ({"type": "chat_template", "field_messages": "chat"}, {"format": "messages", "columns": {"messages": "chat"}}),
        ({"type": "completion", "field": "body"}, {"format": "text", "columns": {"text": "body"}}),
        ({"type": "alpaca", "split": "train", "name": "en"}, {"format": "alpaca", "split": "train", "config": "en"}),
        ({"type": "alpaca", "path": "json", "data_files": ["r.jsonl"]}, {"path": "r.jsonl", "format": "alpaca"}),
    ],
)
def test_rows(entry, source):
    (found,) = tree_of(datasets=[{"path": "rows"} | entry])["data"]["train"]
    assert found == {"path": "rows"} | source


@pytest.mark.parametrize(
    ("keys", "objective"),
    [
        ({"rl": "dpo", "rl_beta": 0.2}, {"name": "dpo", "beta": 0.2}),
        ({"rl": "ipo"}, {"name": "ipo"}),
        ({"rl": "orpo", "orpo_alpha": 0.1}, {"name": "orpo", "beta": 0.1}),
        ({"rl": "kto", "kto_desirable_weight": 0.2}, {"name": "kto", "desirable_weight": 0.2}),
        ({"rl": "simpo", "simpo_gamma": 0.3}, {"name": "simpo", "simpo_gamma": 0.3, "beta": 0.1, "sft_weight": 1.0}),
        ({"reward_model": True}, {"name": "reward"}),
    ],
)
def test_objectives(keys, objective):
    pairs = [{"path": "pairs", "type": "chat_template.default", "field_chosen": "better"}]
    tree = tree_of(datasets=pairs, **keys)
    assert tree["objective"] == objective
    assert tree["data"]["train"] == [{"path": "pairs", "columns": {"chosen": "better"}}]
    assert load_recipe(BARE | keys | {"datasets": pairs}).recipe.objective["name"] == objective["name"]


def test_evaluation_template_and_targets():
    keys = {"test_datasets": [{"path": "held", "type": "alpaca", "split": "test"}], "eval_steps": 5, "adapter": "lora"}
    jinja = {"chat_template": "jinja", "chat_template_jinja": "{{ messages }}", "lora_target_modules": ["q_proj"]}
    tree = tree_of(**keys, **jinja, train_on_inputs=True, excess_length_strategy="truncate")
    assert tree["data"]["eval"] == [{"path": "held", "split": "test", "format": "alpaca"}]
    assert tree["train"]["eval_steps"] == 5
    assert (tree["data"]["chat_template"], tree["data"]["loss_on"]) == ("{{ messages }}", "all")
    assert tree["data"]["truncation"] == "right"
    assert tree["method"] == {"name": "lora", "r": 8, "target_modules": ["q_proj"]}


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"adapter": "oft"}, "adapter: received 'oft' (text); lora, qlora, llama-adapter, or none for full"),
        ({"adapter": "llama-adapter", "peft_adapter": {"length": 10}}, "peft_adapter: received {'length': 10}"),
        ({"val_set_size": 0.05}, "val_set_size: received 0.05 (number); rows are not split at random here"),
        ({"rl": "grpo"}, "rl: received 'grpo' (text); known: dpo, ipo, orpo, kto, simpo"),
        ({"optimizer": "muon"}, "optimizer: received 'muon'"),
        ({"lr_groups": [{"name": "x", "lr": 1.0}]}, "lr_groups: received {'name': 'x', 'lr': 1.0}"),
        ({"datasets": [{"path": "x", "type": "input_output"}]}, "datasets.0.type: received 'input_output'"),
        ({"datasets": [{"path": "x", "tpe": "alpaca"}]}, "datasets.0.tpe: unknown key; did you mean 'type'?"),
        (
            {"datasets": [{"path": "x", "type": "chat_template", "chat_template": "llama3"}]},
            "datasets.0.chat_template: received 'llama3'",
        ),
        ({"special_tokens": {"pad_token": "<pad>"}}, "special_tokens: received {'pad_token': '<pad>'}"),
        ({"micro_batch_sise": 1}, "micro_batch_sise: unknown key; did you mean 'micro_batch_size'?"),
        ({"adapter": "lora", "lora_target_linear": True, "lora_target_modules": ["q"]}, "lora_target_modules: beside"),
    ],
)
def test_refusals_name_the_key_and_what_to_write(keys, text):
    assert refusal(**keys).startswith(text)


def test_prompts_of_llama_adapter():
    keys = {"adapter": "llama-adapter", "peft_adapter": {"len": 10, "layers": 30}, "lora_r": 8}
    assert tree_of(**keys)["method"] == {"name": "llama_adapter", "adapter_len": 10, "adapter_layers": 30}
    assert load_recipe(BARE | keys).recipe.method["adapter_layers"] == 30
    assert "lora_r" in axolotl.translate(BARE | keys).idle
    assert "peft_adapter" in axolotl.translate(BARE | {"peft_adapter": {"len": 10}}).idle


def test_learning_rates_of_their_own():
    lora = {"adapter": "lora", "lora_modules_to_save": ["norm"]}
    tree = tree_of(**lora, loraplus_lr_ratio=16, optimizer="adamw_bnb_8bit")
    assert tree["optim"] == {"lr_scheduler_type": "cosine", "optim": "adamw_bnb_8bit", "loraplus_lr_ratio": 16}
    given = {"embedding_lr_scale": 0.1, "lr_groups": [{"name": "o", "modules": ["self_attn.o_proj"], "lr": 1e-6}]}
    assert tree_of(**lora, **given)["optim"]["groups"] == [
        {"parameters": r"self_attn\.o_proj", "learning_rate": 1e-6},
        {"parameters": "embed_tokens|lm_head|norm", "learning_rate_scale": 0.1},
    ]
    groups = load_recipe(BARE | lora | given).recipe.optim.groups
    assert [group.learning_rate for group in groups] == [1e-6, None]
    assert "loraplus_lr_ratio" in axolotl.translate(BARE | {"loraplus_lr_ratio": 16}).idle, "without LoRA"
