# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a recipe is said in its own words: the key, what was received, what is allowed, what to do."""

from __future__ import annotations

import pytest

from luthier.core.errors import RecipeError
from luthier.recipe import load_recipe

BARE = {"model": {"model_name_or_path": "embedded"}, "data": {"train": "rows.jsonl"}}

UNKNOWN = [  # at every level
    ("sed=1", "sed: unknown key; did you mean 'seed'?"),
    ("modle.dtype=auto", "modle: unknown key; did you mean 'model'?"),
    ("optim.lerning_rate=1", "optim.lerning_rate: unknown key; did you mean 'learning_rate'?"),
    ("data.train=[{path: x, formt: y}]", "data.train.0.formt: unknown key; did you mean 'format'?"),
    ("data.train=[{pth: x}]", "data.train.0.pth: unknown key; did you mean 'path'?"),
    ("data.eval=[{path: x, columns: {}, wieght: 1}]", "data.eval.0.wieght: unknown key; did you mean 'weight'?"),
    ("method.lora_alfa=1", "method.lora_alfa: unknown key; did you mean 'lora_alpha'?"),
    ("objective.beta=1", "objective.beta: unknown key"),
    ("method=lroa", "method.name: unknown name 'lroa'; did you mean 'lora'?"),
    ("objective=stf", "objective.name: unknown name 'stf'; did you mean 'sft'?"),
    ("train.report_to=tensorbord", "train.report_to: unknown tracker 'tensorbord'; did you mean 'tensorboard'?"),
    ("optim.optim=adamv", "did you mean 'adamw'?"),
    ("optim.lr_scheduler_type=cosin", "did you mean 'cosine'?"),
    (
        "learning_rate=1",
        "learning_rate: unknown key; learning_rate belongs to another section; write optim.learning_rate",
    ),
    ("train.learning_rate=1", "write optim.learning_rate"),
    ("optim.seed=1", "optim.seed: unknown key; seed belongs to another section; write seed"),
]

WRONG = [
    (
        "optim.learning_rate=fast",
        "optim.learning_rate: received 'fast' (text); allowed: a number; write it like 2.0e-4",
    ),
    ("optim.learning_rate='2e-4'", "received '2e-4' (text); allowed: a number; remove the quotes"),
    ("optim.learning_rate=0", "received 0 (whole number); allowed: more than 0"),
    ("optim.learning_rate=.nan", "received nan (number); allowed: a finite number"),
    ("optim.adam_beta2=1", "received 1 (whole number); allowed: less than 1"),
    ("train.max_steps=1e3", "received 1000.0 (number); allowed: a whole number; write 1000"),
    ("train.max_steps=-7", "received -7 (whole number); allowed: -1 or more"),
    ("train.logging_steps=0", "received 0 (whole number); allowed: more than 0"),
    ("train.save_total_limit=0", "received 0 (whole number); allowed: more than 0"),
    ("train.gradient_checkpointing=maybe", "received 'maybe' (text); allowed: auto, true, false, offl"),
    ("data.packing=1", "data.packing: received 1 (whole number); allowed: true or false"),
    ("data.train=7", "data.train: received 7 (whole number); allowed: a path, {path: …}, or a list of both"),
    ("data.system=true", "received true (true or false); allowed: text; quote it: data.system: 'true'"),
    ("data.system=a: b", "data.system: received {'a': 'b'} (mapping); allowed: text"),
    ("data.truncation=left", "allowed: right, refuse"),
    ("output_dir=2024", "output_dir: received 2024 (whole number); allowed: text; quote it: output_dir: '2024'"),
    ("model=7", "model: received 7 (whole number); allowed: a section (key: value)"),
    ("method=[lora]", "method: received ['lora'] (list); allowed: a mapping (key: value)"),
    ("method.r=1.5", "method.r: received 1.5 (number); allowed: a whole number"),
    ("method.r=null", "method.r: received nothing (null); allowed: a whole number"),
    (
        "method.rank_pattern={down_proj: 0}",
        "method.rank_pattern.down_proj: received 0 (whole number); allowed: more than 0",
    ),
    ("train.report_to=[1]", "train.report_to.0: received 1 (whole number); allowed: text"),
    ("seed=4294967296", "allowed: less than 4.29497e+09"),
    ("nonsense", "override 'nonsense': no key=value"),
    ("=3", "override '=3': no key=value"),
    ("seed.x=3", "override seed.x: 'seed' holds"),
]


@pytest.mark.parametrize(("word", "message"), UNKNOWN + WRONG)
def test_messages(word, message):
    base = BARE | ({"seed": 1} if word == "seed.x=3" else {})
    with pytest.raises(RecipeError) as caught:
        load_recipe(base, [word])
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "model.model_name_or_path: missing; A transformers folder"),
        ({"model": {"model_name_or_path": "embedded"}}, "data.train: missing; Where the training rows come from"),
        ({**BARE, "data": {}}, "data.train: missing"),
        ({**BARE, "data": {"train": [{}]}}, "data.train.0.path: missing"),
        ({**BARE, 3: 4}, "3: unknown key"),
        ({**BARE, "seed": object()}, "not JSON serializable"),
    ],
)
def test_trees(tree, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe(tree)
    assert message in str(caught.value)


def test_a_command_line_hint_only_where_it_works():
    with pytest.raises(RecipeError, match=r"or data.train=… on the command line"):
        load_recipe({**BARE, "data": {}})
    with pytest.raises(RecipeError) as caught:
        load_recipe({**BARE, "data": {"train": [{}]}})
    assert "command line" not in str(caught.value)
