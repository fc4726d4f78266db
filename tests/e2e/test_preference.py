# SPDX-License-Identifier: Apache-2.0
"""Preference training as a user does it: the shipped recipes on the shipped pairs, a recipe of TRL, and a `kill -9`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml
from tests.runs import Command, bits, metrics, start

import luthier
from luthier.recipe import load_recipe
from luthier.run import preview

RECIPES = Path(__file__).parents[2] / "recipes"
# The recipes on the smallest model: a few steps at a higher rate, evaluated on a third of the pairs kept for it.
EVAL = 'data.eval=[{path: "embedded:preference_test", columns: {instruction: prompt}, max_rows: 100}]'
SMALL = ["model.model_name_or_path=embedded-tiny", "model.dtype=float32", "optim.learning_rate=3e-3"]
SMALL += ["train.max_steps=16", "train.logging_steps=1", EVAL]


@pytest.fixture
def command(capsys):
    """Run a command; give back its exit code, stdout and stderr."""
    return Command(capsys)


@pytest.mark.parametrize(
    ("name", "margin", "accuracy"),
    [
        ("dpo", "rewards/margins", "rewards/accuracies"),
        ("orpo", "rewards/margins", "rewards/accuracies"),
        ("kto", "rewards/margins", None),  # its accuracy asks for both sides of z0, not for an order
        ("reward", "margin", "accuracy"),
    ],
)
def test_unseen_pairs_are_told_apart(command, tmp_path, name, margin, accuracy):
    """Before training every second pair of the first step is in order at most; after it nearly all unseen ones are."""
    said = command("train", RECIPES / f"{name}.yaml", *SMALL, f"output_dir={tmp_path}/run", "--quiet", "--json")
    assert said.code == 0, said.err
    found = {key: part["value"] for key, part in json.loads(said.out)["evaluation"]["loss"].items()}
    first = metrics(tmp_path / "run")[0]
    assert found[margin] > max(0.2, first[margin] + 0.2)
    if accuracy:
        assert first[accuracy] < 0.8
        assert found[accuracy] > 0.95
    if name == "dpo":
        assert first["loss"] == pytest.approx(0.6931, abs=1e-3)
        assert found["loss"] < 0.3


def test_a_recipe_of_trl_runs_and_what_was_made_of_it_is_said(command, tmp_path):
    flat = {
        "model_name_or_path": "embedded-tiny",
        "use_peft": True,
        "lora_r": 4,
        "lora_target_modules": ["q_proj", "v_proj"],
        "dataset_name": "embedded:preference_train",
        "beta": 0.05,
        "learning_rate": 5.0e-4,
        "max_length": 128,
        "max_prompt_length": 64,
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "dataset_num_proc": 8,
        "output_dir": str(tmp_path / "run"),
    }
    file, note = tmp_path / "config.yaml", "no effect here: dataset_num_proc"
    file.write_text(yaml.safe_dump(flat), encoding="utf-8")
    lines: list[str] = []
    result = luthier.train(file, say=lines.append)
    assert lines.count(note) == 1
    assert result.summary["steps"] == 2
    assert load_recipe(tmp_path / "run" / "recipe.yaml").recipe.objective["beta"] == 0.05
    lines.clear()
    assert preview(file, say=lines.append)["trainable_parameters"] == result.summary["trainable_parameters"]
    assert lines.count(note) == 1
    for words in (["data", file, "--rows", "0"], ["train", file, "--dry-run"]):
        said = command(*words)
        assert said.code == 0
        assert said.err.count(note) == 1


def test_a_killed_run_goes_on_to_the_same_bits(command, tmp_path):
    """Full fine-tuning, whose reference is gone after the first step: what it said is on disk."""
    words = [RECIPES / "dpo.yaml", *SMALL, "method=full", "train.max_steps=6", "train.save_steps=2", "data.eval=[]"]
    assert command("train", *words, f"output_dir={tmp_path}/whole", "--quiet").code == 0
    run = tmp_path / "run"
    process = start("train", *words, f"output_dir={run}", "--quiet")
    try:
        until = time.monotonic() + 120
        while process.poll() is None and not (run / "checkpoints" / "step-2").is_dir():
            assert time.monotonic() < until
            time.sleep(0.005)
    finally:
        process.kill()
        _, err = process.communicate()
    assert process.returncode == -9, f"it ended before it could be killed: {err}"
    said = command("train", *words, f"output_dir={run}", "--quiet", "--resume")
    assert said.code == 0, said.err
    assert "going on after step" in said.err
    assert bits(run) == bits(tmp_path / "whole")
