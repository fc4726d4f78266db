# SPDX-License-Identifier: Apache-2.0
"""Same recipe, same seed, same machine: the same bits, whatever happened in the process before."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tests.runs import Command, bits, metrics, recipe_file, tree

import luthier
from luthier.engine.callbacks import Callback, progress
from luthier.recipe import Data, Model, Optim, Recipe, Train


@pytest.fixture(params=[{"name": "lora", "r": 4, "lora_dropout": 0.1}, {"name": "full"}], ids=["lora", "full"])
def method(request):
    return request.param


@pytest.fixture
def recipe(tiny_llama, alpaca_file, tmp_path, method):
    return lambda name, **sections: tree(
        tiny_llama, alpaca_file, tmp_path / name, **{"method": method, "model": {"dtype": "bfloat16"}} | sections
    )


def test_same_bits_again(recipe):
    first = luthier.train(recipe("first")).folder
    torch.manual_seed(99)
    torch.rand(7)
    np.random.seed(3)
    random.seed(3)
    torch.set_num_threads(1)
    assert bits(luthier.train(recipe("second")).folder) == bits(first)


def test_another_seed_is_another_run(recipe):
    assert bits(luthier.train(recipe("a")).folder) != bits(luthier.train(recipe("b", seed=1)).folder)


def test_yaml_tree_recipe_and_command_line(recipe, tiny_llama, alpaca_file, method, tmp_path, capsys):
    asked = recipe("tree")
    wanted = bits(luthier.train(asked).folder)
    typed = Recipe(
        model=Model(model_name_or_path=str(tiny_llama), dtype="bfloat16"),
        data=Data(train=str(alpaca_file), max_length=96),
        method=method,
        optim=Optim(learning_rate=1e-3),
        train=Train(max_steps=4, per_device_train_batch_size=2, gradient_accumulation_steps=2),
        output_dir=str(tmp_path / "typed"),
    )
    assert bits(luthier.train(typed).folder) == wanted
    file = recipe_file(tmp_path, recipe("yaml"))
    assert bits(luthier.train(file).folder) == wanted
    words = ["train", file, f"output_dir={tmp_path / 'words'}", "optim.learning_rate=1e-3", "--quiet"]
    assert Command(capsys)(*words).code == 0
    assert bits(tmp_path / "words") == wanted


@pytest.mark.parametrize(
    "change",
    [
        {"save_steps": 1},
        {"save_steps": 1, "save_total_limit": 1},
        {"report_to": ["tensorboard"]},
        {"eval_steps": 1},
        {"gradient_checkpointing": True},
    ],
    ids=str,
)
def test_watching_changes_nothing(recipe, alpaca_file, method, change):
    """Checkpoints, trackers and evaluation (dropout off and on again) draw no random number."""
    plain = luthier.train(recipe("plain")).folder
    data = {"eval": [{"path": str(alpaca_file), "max_rows": 8}]} if "eval_steps" in change else {}
    watched = luthier.train(recipe("watched", train=change, data=data)).folder
    found, wanted = bits(watched), bits(plain)
    found["metrics"] = [line for line in metrics(watched) if "eval_loss" not in line]
    assert found == wanted


class Drawing(Callback):
    """As a tracker may: it draws a random name for the run, from every generator there is."""

    def on_start(self, folder, recipe, total_steps, step):
        self.drawn = torch.rand(5), np.random.rand(5), random.random()


@pytest.mark.parametrize("method", [{"name": "lora", "r": 4, "lora_dropout": 0.5}], indirect=True, ids=["dropout"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_callback_that_draws_changes_nothing(recipe, resume, monkeypatch):
    plain = luthier.train(recipe("plain")).folder
    drawing = Drawing()
    monkeypatch.setattr(progress, "make", lambda folder: drawing)
    watched = luthier.train(recipe("watched"), callbacks=["progress"], resume=resume).folder
    assert drawing.drawn
    assert bits(watched) == bits(plain)
