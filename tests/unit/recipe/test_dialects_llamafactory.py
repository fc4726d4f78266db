# SPDX-License-Identifier: Apache-2.0
"""LLaMA-Factory's recipes: stages, `dataset_info.json`, templates and methods."""

from __future__ import annotations

import json

import pytest
from tests.unit.recipe.foreign_recipes import LLAMAFACTORY, SHARED

from luthier.core import registry
from luthier.data.columns import choose
from luthier.recipe import load_recipe
from luthier.recipe.dialects import llamafactory
from luthier.recipe.dialects._templates import SAME
from luthier.recipe.text import parse

BARE = {"model_name_or_path": "m", "stage": "sft", "template": "llama3"}
OPENAI = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
SETS = {
    "lists": {"file_name": "lists.json"},
    "renamed": {"file_name": "a.json", "columns": {"prompt": "question", "query": "", "response": "reply"}},
    "chats": {"hf_hub_url": "org/chats", "subset": "en", "split": "train", "formatting": "sharegpt", "num_samples": 5},
    "openai": {"file_name": "o.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": OPENAI},
    "pairs": {
        "file_name": "p.json",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "conversations", "chosen": "better", "rejected": "rejected"},
    },
    "kto": {
        "file_name": "k.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "kto_tag": "label"},
        "tags": OPENAI,
    },
    "docs": {"file_name": "w.txt", "columns": {"prompt": "text"}},
    "pictures": {"file_name": "i.json", "formatting": "sharegpt", "columns": {"images": "images"}},
    "elsewhere": {"ms_hub_url": "org/rows"},
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "dataset_info.json").write_text(json.dumps(SETS), encoding="utf-8")
    return tmp_path


def tree_of(**keys):
    found = llamafactory.translate(BARE | keys)
    assert [str(error) for error in found.refused] == []
    return found.tree


def refusal(**keys):
    (error,) = llamafactory.translate(BARE | keys).refused
    return str(error)


def test_a_whole_recipe(folder):
    recipe = load_recipe(parse(LLAMAFACTORY), [f"dataset_dir={folder}"]).recipe
    assert [(s.path, s.format, s.max_rows) for s in recipe.data.train] == [
        (f"{folder}/lists.json", "alpaca", 10),
        ("org/chats", "sharegpt", 5),
    ]
    assert recipe.data.train[1].config == "en"
    assert (recipe.method["r"], recipe.method["lora_alpha"]) == (4, 8)
    assert recipe.method["target_modules"] == ["q_proj", "v_proj"]
    assert (recipe.data.chat_template, recipe.data.packing, recipe.data.max_length) == ("chatml", False, 128)
    assert (recipe.optim.learning_rate, recipe.optim.warmup_ratio, recipe.model.dtype) == (1e-4, 0.1, "bfloat16")


@pytest.mark.parametrize(
    ("stage", "name", "read"),
    [
        (
            "sft",
            "renamed",
            {"format": "alpaca", "columns": {"instruction": "question", "output": "reply"}},
        ),
        ("sft", "openai", {"format": "messages"}),
        ("dpo", "pairs", {"format": "preference", "columns": {"chosen": "better"}}),
        ("kto", "kto", {"format": "unpaired"}),
        ("pt", "docs", {"format": "text"}),
    ],
)
def test_reading_of_a_data_set(folder, stage, name, read):
    tree = tree_of(stage=stage, dataset=name, dataset_dir=str(folder))
    (source,) = tree["data"]["train"]
    assert source == {"path": f"{folder}/{SETS[name]['file_name']}"} | read
    assert source["format"] in registry.entries("data.formats")


def test_columns_are_those_that_our_formats_read():
    given = {"prompt": "conversations", "chosen": "better"}
    reading = choose("p.json", "preference", given, ["conversations", "better", "rejected"], kind="judged")
    assert reading.columns == given | {"rejected": "rejected"}


@pytest.mark.parametrize(
    ("keys", "objective"),
    [
        ({"stage": "dpo"}, {"name": "dpo"}),
        ({"stage": "dpo", "pref_loss": "hinge", "pref_ftx": 0.5}, {"loss_type": "hinge", "sft_weight": 0.5}),
        ({"stage": "dpo", "pref_loss": "ipo", "pref_beta": 0.2, "pref_ftx": 0.0}, {"name": "ipo", "beta": 0.2}),
        ({"stage": "dpo", "pref_loss": "orpo", "pref_beta": 0.05}, {"name": "orpo", "beta": 0.05}),
        (
            {"stage": "dpo", "pref_loss": "simpo", "simpo_gamma": 1.0},
            {"name": "simpo", "simpo_gamma": 1.0, "beta": 0.1},
        ),
        ({"stage": "kto", "kto_rejected_weight": 0.5}, {"name": "kto", "undesirable_weight": 0.5}),
        ({"stage": "rm"}, {"name": "reward"}),
        ({"stage": "pt"}, {"name": "sft"}),
    ],
)
def test_stages(keys, objective):
    tree = tree_of(**keys)
    assert tree["objective"] == {"name": "dpo"} | objective
    if objective.get("name") != "sft":
        assert not {"packing", "loss_on"} & set(tree["data"])
    assert load_recipe(BARE | keys, ["data.train=rows.jsonl"]).recipe.objective["name"] == tree["objective"]["name"]


@pytest.mark.parametrize(
    ("keys", "data"),
    [
        ({"train_on_prompt": True}, {"loss_on": "all"}),
        ({"mask_history": True}, {"loss_on": "last"}),
        ({"train_on_prompt": False}, {}),
        ({"packing": True, "neat_packing": True}, {"packing": True}),
        ({"packing": False}, {"packing": False}),
        ({"stage": "pt"}, {"packing": True, "loss_on": "all"}),
        ({"template": "auto"}, {"chat_template": "auto"}),
    ],
)
def test_what_is_scored_and_packed(keys, data):
    found = tree_of(**keys)["data"]
    template = {} if keys.get("stage") == "pt" else {"chat_template": "llama3"}
    assert found == {"max_length": 2048, "packing": False} | template | data


def test_methods():
    assert tree_of(finetuning_type="full", lora_rank=8)["method"] == {"name": "full"}
    lora = tree_of(finetuning_type="lora", lora_alpha=4, lora_target="all", additional_target="embed_tokens,lm_head")
    assert lora["method"] == {
        "name": "lora",
        "lora_alpha": 4,
        "r": 8,
        "target_modules": "all-linear",
        "modules_to_save": ["embed_tokens", "lm_head"],
    }


def test_every_template_that_is_named_exists():
    assert set(SAME.values()) - {"auto"} <= set(registry.entries("data.templates"))


def test_freeze_keeps_its_keys():
    words = {"freeze_trainable_layers": -3, "freeze_trainable_modules": "mlp,self_attn", "freeze_extra_modules": "norm"}
    method = tree_of(finetuning_type="freeze", lora_rank=8, **words)["method"]
    assert method == {
        "name": "freeze",
        "freeze_trainable_layers": -3,
        "freeze_trainable_modules": ["mlp", "self_attn"],
        "freeze_extra_modules": ["norm"],
    }
    assert tree_of(finetuning_type="full", **words)["method"] == {"name": "full"}


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"finetuning_type": "oft"}, "finetuning_type: received 'oft' (text); lora, full, freeze; write one of these"),
        ({"stage": "ppo"}, "stage: received 'ppo' (text); known: pt, sft, rm, dpo, kto"),
        (
            {"stage": "dpo", "pref_loss": "kto_pair"},
            "pref_loss: received 'kto_pair' (text); known: sigmoid, hinge, ipo, ",
        ),
        ({"val_size": 0.1}, "val_size: received 0.1 (number); rows are not split at random here; write val_size=0"),
        ({"template": "deepseek3"}, "template: received 'deepseek3' (text); known: alpaca, "),
        ({"use_galore": True}, "use_galore: with finetuning_type lora; GaLore and APOLLO train the whole model"),
        ({"lora_rnak": 8}, "lora_rnak: unknown key; did you mean 'lora_rank'?"),
        ({"dataset": "x", "dataset_dir": "nowhere"}, "dataset_dir: nowhere/dataset_info.json cannot be read"),
        (
            {"stage": "dpo", "pref_loss": "orpo", "pref_ftx": 1.0},
            "pref_ftx: objective orpo has no such key; sft_weight",
        ),
    ],
)
def test_refusals_name_the_key_and_what_to_write(keys, text):
    assert refusal(**keys).startswith(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lsits", "dataset: 'lsits' is not in "),
        ("pictures", "dataset 'pictures': a column of images"),
        ("elsewhere", "dataset 'elsewhere': neither hf_hub_url nor file_name"),
    ],
)
def test_data_sets_that_cannot_be_read(folder, name, text):
    assert refusal(dataset=name, dataset_dir=str(folder)).startswith(text)
    assert "data" in load_recipe(BARE | {"dataset": name}, ["data.train=rows.jsonl"]).recipe.model_dump()


@pytest.mark.skipif(not SHARED.is_dir(), reason="LLaMA-Factory's own registry is not here")
def test_the_real_registry():
    folder = SHARED / "llama-factory"
    names = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    media = {name for name, entry in names.items() if {"images", "videos", "audios"} & set(entry.get("columns", {}))}
    given = BARE | {"dataset": ",".join(names), "dataset_dir": str(folder)}
    found = llamafactory.translate(given)
    refused = {error.where.split("'")[1] for error in found.refused}
    assert media <= refused
    readable = [name for name in refused - media if {"hf_hub_url", "file_name"} & set(names[name])]
    assert [name for name in readable if "folder" not in names[name]] == []
    assert len(found.tree["data"]["train"]) == len(names) - len(refused)


def test_loraplus():
    keys = {"loraplus_lr_ratio": 16.0, "loraplus_lr_embedding": 1e-5}
    assert {"loraplus_lr_ratio": 16.0, "loraplus_lr_embedding": 1e-5}.items() <= tree_of(**keys)["optim"].items()
    alone = llamafactory.translate(BARE | {"loraplus_lr_embedding": 1e-5})
    assert "loraplus_lr_embedding" in alone.idle, "it is LLaMA-Factory's default, written out"
    full = llamafactory.translate(BARE | keys | {"finetuning_type": "full"})
    assert set(full.idle) >= set(keys)
