# SPDX-License-Identifier: Apache-2.0
"""Each rule refuses what it is there for, and a recipe that breaks none passes."""

from __future__ import annotations

import pytest

from luthier.core.errors import RecipeError
from luthier.recipe import load_recipe
from luthier.recipe.rules import RULES

BARE = {"model": {"model_name_or_path": "embedded"}, "data": {"train": "rows.jsonl"}}
EVAL = ["data.eval=held-out.jsonl"]

BROKEN = [  # one for each rule, in the table's order
    ["train.eval_steps=10"],
    ["train.early_stopping_patience=2", "train.eval_steps=0"],
    ["train.early_stopping_patience=2", *EVAL],
    ["train.load_best_model_at_end=true", *EVAL],
    [*EVAL, "train.metric_for_best_model=f1"],
    [*EVAL, "train.eval_steps=5", "train.load_best_model_at_end=true", "train.greater_is_better=true"],
    ["train.hub_model_id=me/first"],
    ["train.max_steps=10", "optim.warmup_steps=11"],
    ["optim.lr_scheduler_type=constant", "optim.warmup_steps=1"],
    ["optim.momentum=0.9"],
    ["optim.loraplus_lr_embedding=1e-6"],
    ["data.max_length=512", "data.max_prompt_length=512"],
    ["objective={name: dpo, reference: runs/x/adapter}", "output_dir=./runs/x"],
    ["train.max_steps=0"],
    ["model.quantization=nf4", "method=full"],
    ["method={name: galore, layerwise: true}", "train.gradient_accumulation_steps=2"],
    ["method={name: apollo, layerwise: true}"],
    ["method={name: galore, moments: rotate}", "optim.optim=adafactor"],
    ["model.quantization=int8", "model.bnb_4bit_use_double_quant=true"],
    ["model.quantization=nf4", "train.torch_compile=true"],
]


def test_every_rule_is_broken_here():
    assert len(BROKEN) == len(RULES)


@pytest.mark.parametrize(
    ("rule", "words"), list(zip(RULES, BROKEN, strict=True)), ids=[f"{r.where} {r.received}" for r in RULES]
)
def test_rule(rule, words):
    with pytest.raises(RecipeError) as caught:
        load_recipe(BARE, words)
    error = caught.value
    assert (error.where, error.received, error.allowed, error.fix) == rule[1:]


@pytest.mark.parametrize(
    "words",
    [
        [*EVAL, "train.eval_steps=10", "train.early_stopping_patience=2", "train.load_best_model_at_end=true"],
        [*EVAL, "train.eval_steps=10", "train.load_best_model_at_end=true", "train.metric_for_best_model=eval_f1"],
        ["model.task_type=CAUSAL_LM"],
        ["model.task_type=SEQ_CLS", "objective=reward"],
        ["train.max_steps=10", "optim.warmup_steps=10"],
        ["optim.lr_scheduler_type=constant_with_warmup", "optim.warmup_steps=1"],
        ["optim.optim=sgd", "optim.momentum=0.9"],
        ["train.save_total_limit=null"],
        ["objective={name: dpo, reference: runs/xy}", "output_dir=runs/x"],
        ["objective=dpo", "output_dir=."],
        ["objective={name: dpo, reference: runs/sft}", "output_dir=runs"],
        ["train.report_to=[tensorboard, wandb]"],
        ["method={name: galore, layerwise: true, moments: rotate}", "optim.max_grad_norm=0", "optim.optim=lion"],
        ["model.quantization=fp4", "model.bnb_4bit_use_double_quant=true", "method=ia3"],
    ],
)
def test_good_combinations(words):
    assert load_recipe(BARE, words)


TASKS = {
    "CAUSAL_LM": "sft",
    "SEQ_2_SEQ_LM": "sft",
    "SEQ_CLS": "classification",
    "TOKEN_CLS": "token_classification",
    "QUESTION_ANS": "question_answering",
    "FEATURE_EXTRACTION": "contrastive",
}


@pytest.mark.parametrize(("task", "objective"), TASKS.items())
def test_a_task_alone_chooses_its_objective(task, objective):
    found = load_recipe(BARE, [f"model.task_type={task}"])
    assert found.recipe.objective["name"] == objective
    assert load_recipe(found.recipe).fingerprint == found.fingerprint


def test_keys_of_an_objective_that_the_task_chooses():
    found = load_recipe(BARE, ["model.task_type=SEQ_CLS", "objective.class_weights=balanced"])
    assert found.recipe.objective["name"] == "classification"
    assert found.recipe.objective["class_weights"] == "balanced"


@pytest.mark.parametrize("objective", ["sft", "reward", "contrastive"])
def test_an_objective_that_does_not_train_the_task_is_refused(objective):
    with pytest.raises(RecipeError, match=r"model\.task_type TOKEN_CLS alone chooses objective token_classification"):
        load_recipe(BARE, ["model.task_type=TOKEN_CLS", f"objective={objective}"])
