# SPDX-License-Identifier: Apache-2.0
"""Flat recipes of TRL and the alignment-handbook: which objective, rows, numbers and steps they mean."""

from __future__ import annotations

import pytest
from tests.unit.recipe.foreign_recipes import RSLORA, SHARED, TRL_DPO, TRL_SFT

from luthier.core.errors import RecipeError
from luthier.recipe import load_recipe
from luthier.recipe.dialects import trl
from luthier.recipe.dialects._draft import Asked
from luthier.recipe.text import parse, read_yaml

HANDBOOK = SHARED / "recipes-alignment-handbook"
RECIPES = sorted(file for file in HANDBOOK.rglob("*.yaml") if file.parent.name != "accelerate_configs")
LAUNCHERS = sorted(HANDBOOK.glob("accelerate_configs/*.yaml"))
BARE = {"model_name_or_path": "m", "dataset_name": "rows"}


def tree_of(tree, **asked):
    found = trl.translate(tree, Asked(**asked))
    assert [str(error) for error in found.refused] == []
    return found.tree


def refusal(**keys):
    (error,) = trl.translate(BARE | keys).refused
    return str(error)


def test_the_article_on_rslora():
    resolved = load_recipe(parse(RSLORA))
    recipe = resolved.recipe
    assert recipe.model.dtype == "bfloat16"
    assert recipe.method | {"bias": "none"} == recipe.method
    assert (recipe.method["r"], recipe.method["lora_alpha"], recipe.method["lora_dropout"]) == (256, 256, 0.1)
    assert recipe.method["target_modules"] == ["q_proj", "k_proj", "o_proj", "up_proj", "gate_proj"]
    assert (recipe.objective["name"], recipe.objective["beta"]) == ("dpo", 0.1)
    assert [(s.path, s.split) for s in recipe.data.train] == [("some/preferences", "train_prefs")]
    assert [(s.path, s.split) for s in recipe.data.eval] == [("some/preferences", "test_prefs")]
    assert (recipe.data.max_length, recipe.data.max_prompt_length) == (1024, 512)
    assert recipe.data.chat_template.startswith("{% for message")
    assert (recipe.optim.optim, recipe.optim.learning_rate, recipe.optim.warmup_ratio) == ("adafactor", 5e-7, 0.1)
    assert (recipe.train.eval_steps, recipe.train.save_steps, recipe.train.save_total_limit) == (100, 0, None)
    assert resolved.translation.idle == (
        "do_eval",
        "use_flash_attention_2",
        "preprocessing_num_workers",
        "gradient_checkpointing_kwargs",
        "hub_model_id",
        "log_level",
        "push_to_hub",
        "run_name",
    )


def test_defaults_that_change_weights_are_trls():
    tree = tree_of(BARE)
    assert tree["objective"] == {"name": "sft"}
    assert tree["method"] == {"name": "full"}
    assert tree["optim"] == {"learning_rate": 2e-5, "warmup_ratio": 0.0}
    assert tree["train"]["num_train_epochs"] == 3
    assert (tree["data"]["packing"], tree["data"]["loss_on"]) == (False, "all")
    assert "num_train_epochs" not in tree_of(BARE | {"max_steps": 5})["train"]
    assert tree_of(BARE | {"use_peft": True})["method"] == {
        "name": "lora",
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "target_modules": ["q_proj", "v_proj"],
    }
    (told,) = [line for line in trl.translate(BARE).lines() if line.startswith("defaults of TRL")]
    assert "optim.learning_rate=2.0e-05" in told


@pytest.mark.parametrize(
    ("keys", "asked", "name"),
    [
        ({}, {}, "sft"),
        ({"beta": 0.1}, {}, "dpo"),
        ({"max_prompt_length": 64}, {}, "dpo"),
        ({"beta": 0.1}, {"file": "recipes/zephyr/orpo/config_full.yaml"}, "orpo"),
        ({"beta": 0.1}, {"file": "recipes/zephyr/sft/config_full.yaml"}, "dpo"),
        ({}, {"file": "recipes/dpo/zephyr/config_kto.yaml"}, "kto"),
        ({}, {"file": "recipes/support/config.yaml"}, "sft"),
        ({"trainer": "cpo"}, {"file": "recipes/dpo/x.yaml"}, "cpo"),
        ({"desirable_weight": 2.0}, {}, "kto"),
        ({"center_rewards_coefficient": 0.01}, {}, "reward"),
        ({"loss_type": "ipo"}, {}, "ipo"),
        ({"loss_type": "simpo", "simpo_gamma": 1.0}, {}, "simpo"),
        ({"beta": 0.1, "cpo_alpha": 0.5}, {}, "cpo"),
        ({"beta": 0.1}, {"objective": "kto", "file": "dpo/x.yaml"}, "kto"),
    ],
)
def test_the_objective_is_told_and_why_is_said(keys, asked, name):
    found = trl.translate(BARE | keys, Asked(**asked))
    assert found.refused == ()
    assert found.tree["objective"]["name"] == name
    assert any(note.startswith(f"objective {name}: ") for note in found.notes)


@pytest.mark.parametrize(
    ("keys", "section"),
    [
        ({"loss_type": ["hinge"], "beta": 0.2}, {"name": "dpo", "loss_type": "hinge", "beta": 0.2}),
        ({"loss_type": "sigmoid_norm"}, {"name": "dpo", "loss_type": "sigmoid", "length_normalized": True}),
        ({"rpo_alpha": 1.0}, {"name": "dpo", "sft_weight": 1.0}),
        ({"beta": 0.1, "f_divergence_type": "js_divergence"}, {"beta": 0.1, "f_divergence_type": "js_divergence"}),
        ({"ref_model_name_or_path": "base"}, {"name": "dpo", "reference": "base"}),
        ({"beta": 0.1, "label_smoothing": 0.1}, {"beta": 0.1, "label_smoothing": 0.1}),
        ({"loss_type": "simpo", "cpo_alpha": 0.0}, {"name": "simpo", "sft_weight": 0.0, "beta": 0.1}),
        ({"cpo_alpha": 0.5, "loss_type": "hinge"}, {"name": "cpo", "cpo_alpha": 0.5, "loss_type": "hinge"}),
    ],
)
def test_keys_of_the_objective(keys, section):
    tree = tree_of(BARE | keys)
    assert tree["objective"] == {"name": "dpo"} | section
    assert load_recipe(BARE | keys).recipe.objective | section == load_recipe(BARE | keys).recipe.objective


@pytest.mark.parametrize(
    ("keys", "dtype"),
    [
        ({}, None),
        ({"torch_dtype": "auto"}, "auto"),
        ({"torch_dtype": "auto", "bf16": True}, "bfloat16"),
        ({"torch_dtype": None, "bf16": True}, "bfloat16"),
        ({"dtype": "float32"}, "float32"),
        ({"torch_dtype": "float32", "bf16": True}, "bfloat16"),
        ({"bf16": False}, "float32"),
        ({"torch_dtype": "bfloat16", "bf16": False}, "bfloat16"),
    ],
)
def test_numbers(keys, dtype):
    assert tree_of(BARE | keys)["model"].get("dtype") == dtype


def test_rows_of_a_mixer():
    data = tree_of(parse(TRL_SFT))["data"]
    assert data["train"] == [
        {"path": "some/chats", "split": "train_sft", "weight": 0.5},
        {"path": "other/chats", "split": "train_sft"},
    ]
    assert data["eval"] == [{"path": "some/chats", "split": "test_sft"}, {"path": "other/chats", "split": "test_sft"}]


def test_rows_of_a_mixture():
    entries = [
        {"id": "a", "config": "default", "split": "train_x", "columns": ["messages"], "weight": 1.0},
        {"id": "b", "config": "en", "split": "test_x", "columns": {"prompt": "q"}, "weight": 0.25},
    ]
    tree = {"model_name_or_path": "m", "do_eval": True, "dataset_mixture": {"datasets": entries, "test_split_size": 9}}
    tree["dataset_mixture"]["seed"] = 0
    found = trl.translate(tree)
    assert found.refused == ()
    assert found.tree["data"]["train"] == [{"path": "a", "split": "train_x", "format": "messages"}]
    assert found.tree["data"]["eval"] == [
        {"path": "b", "split": "test_x", "config": "en", "weight": 0.25, "columns": {"prompt": "q"}}
    ]
    assert "dataset_mixture.seed" in found.idle
    assert any(note.startswith("test_split_size 9: ") for note in found.notes)
    (error,) = trl.translate(tree | {"dataset_mixture": {"datasets": entries[:1], "test_split_size": 9}}).refused
    assert error.where == "dataset_mixture.test_split_size"
    (error,) = trl.translate(tree | {"dataset_mixture": {"datasets": [{"id": "a", "splt": "x"}]}}).refused
    assert (error.where, "did you mean 'split'" in error.allowed) == ("dataset_mixture.datasets.0.splt", True)


@pytest.mark.parametrize(
    ("keys", "evaluates", "train"),
    [
        ({}, False, {}),
        ({"do_eval": True}, True, {}),
        ({"eval_strategy": "steps", "eval_steps": 7}, True, {"eval_steps": 7}),
        ({"eval_strategy": "steps", "logging_steps": 3}, True, {"eval_steps": 3, "logging_steps": 3}),
        ({"evaluation_strategy": "epoch"}, True, {}),
        ({"eval_strategy": False}, False, {}),
        ({"save_strategy": False}, False, {"save_steps": 0}),
        ({"save_strategy": "steps", "save_steps": 5}, False, {"save_steps": 5}),
        ({"save_strategy": "steps"}, False, {"save_steps": 500}),
        ({"save_steps": 5}, False, {"save_steps": 5}),
    ],
)
def test_when_it_evaluates_and_saves(keys, evaluates, train):
    tree = tree_of(BARE | keys)
    assert ("eval" in tree["data"]) is evaluates
    assert tree["train"] == {"num_train_epochs": 3.0} | train


@pytest.mark.parametrize(
    ("keys", "optim"),
    [
        ({"warmup_steps": 10, "warmup_ratio": 0.5}, {"warmup_steps": 10, "warmup_ratio": 0.0}),
        ({"warmup_steps": 0.1}, {"warmup_ratio": 0.1}),
        ({"warmup_steps": 0, "warmup_ratio": 0.2}, {"warmup_ratio": 0.2}),
        ({"lr_scheduler_type": "constant", "warmup_steps": 5}, {"lr_scheduler_type": "constant", "warmup_ratio": 0.0}),
        ({"optim": "paged_adamw_32bit"}, {"optim": "adamw", "warmup_ratio": 0.0}),
        ({"optim": "adamw_8bit"}, {"optim": "adamw_8bit", "warmup_ratio": 0.0}),
        ({"optim": "adamw_bnb_8bit"}, {"optim": "adamw_bnb_8bit", "warmup_ratio": 0.0}),
        ({"optim": "lion_32bit"}, {"optim": "lion", "warmup_ratio": 0.0, "adam_beta2": 0.999}),
        (
            {"optim": "paged_lion_8bit", "adam_beta2": 0.95},
            {"optim": "paged_lion_8bit", "warmup_ratio": 0.0, "adam_beta2": 0.95},
        ),
    ],
)
def test_optimiser_and_warm_up(keys, optim):
    assert tree_of(BARE | keys)["optim"] == {"learning_rate": 2e-5} | optim
    assert load_recipe(BARE | keys).recipe.optim.warmup_steps == optim.get("warmup_steps", 0)


def test_lora_keys_without_use_peft_have_no_effect_and_say_so():
    found = trl.translate(BARE | {"lora_r": 8, "lora_alpha": 16})
    assert found.tree["method"] == {"name": "full"}
    assert set(found.idle) >= {"lora_r", "lora_alpha"}
    assert any("use_peft is not true" in note for note in found.notes)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"push_to_hub": "yes"}, "push_to_hub: received 'yes'"),
        (
            {"torch_dtype": "float16"},
            "torch_dtype: received 'float16' (text); auto, bfloat16, float32; write torch_dty",
        ),
        ({"fp16": True}, "fp16: received true (true or false); write bf16: true"),
        ({"packing": True, "packing_strategy": "wrapped"}, "packing_strategy: received 'wrapped'"),
        ({"optim": "adamw_torch_8bit"}, "optim: received 'adamw_torch_8bit'"),
        (
            {"lr_scheduler_type": "inverse_sqrt"},
            "lr_scheduler_type: received 'inverse_sqrt' (text); known: linear, cos",
        ),
        ({"loss_type": "bco_pair"}, "loss_type: received 'bco_pair' (text); allowed: sigmoid, hinge"),
        (
            {"beta": 0.1, "center_rewards_coefficient": 0.1},
            "beta: objective reward has no such key; beta belongs to dpo",
        ),
        ({"max_length": None}, "max_length: received nothing (null)"),
        ({"max_length": 8, "max_seq_length": 16}, "max_seq_length: 16 (whole number), but max_length says 8"),
        ({"trainer": "grpo"}, "trainer: received 'grpo' (text); known: sft, dpo"),
        ({"dataset_mixer": {"a": 1.0}}, "dataset_name: a second way to name rows, beside dataset_mixer"),
        ({"deepspeed": "zero3.json"}, "deepspeed: received 'zero3.json' (text); remove it: Luthier does not shard"),
        ({"eval_strategy": "epoch", "load_best_model_at_end": True}, "eval_strategy: epoch, with load_best_model"),
        ({"report_to": "all"}, "report_to: received 'all'"),
        ({"lora_alfa": 8}, "lora_alfa: unknown key; did you mean 'lora_alpha'?"),
        ({"neftune_noise_alpha": 5}, "neftune_noise_alpha: received 5"),
    ],
)
def test_refusals_name_the_key_and_what_to_write(keys, text):
    assert refusal(**keys).startswith(text)


def test_text_and_packing():
    tree = tree_of(BARE | {"dataset_text_field": "body", "packing": True, "packing_strategy": "bfd", "do_eval": True})
    assert tree["data"]["packing"] is True
    assert {"path": "rows", "format": "text", "columns": {"text": "body"}} in tree["data"]["train"]
    assert tree_of(BARE | {"assistant_only_loss": True})["data"]["loss_on"] == "assistant"


def test_no_preference_key_is_packed_or_masked():
    assert not {"packing", "loss_on"} & set(tree_of(parse(TRL_DPO))["data"])


@pytest.mark.skipif(not RECIPES, reason="the handbook's recipes are not here")
@pytest.mark.parametrize("file", RECIPES, ids=lambda file: str(file.relative_to(HANDBOOK)))
def test_a_recipe_of_the_handbook_loads_or_says_what_to_write(file):
    mended = ["optim=adamw_torch"]
    words = mended + ["lr_scheduler_type=linear"] * (file.parent.name == "orpo")
    resolved = load_recipe(file, words)
    assert resolved.recipe.objective["name"] == file.parent.name
    pushed = load_recipe(file, [*words, "push_to_hub=true"]).recipe.train
    assert (pushed.push_to_hub, pushed.hub_model_id) == (True, read_yaml(file).get("hub_model_id"))


@pytest.mark.parametrize("file", LAUNCHERS, ids=lambda file: file.name)
def test_a_launchers_file_beside_them_is_no_recipe(file):
    with pytest.raises(RecipeError, match=r"^distributed_type: this is a configuration of `accelerate launch`"):
        load_recipe(file)


def test_dora_is_known():
    assert tree_of(BARE | {"use_peft": True, "use_dora": True})["method"]["use_dora"] is True
