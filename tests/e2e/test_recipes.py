# SPDX-License-Identifier: Apache-2.0
"""Every shipped recipe trains: two steps on the smallest model, and what it leaves is loaded and answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import luthier
from luthier.core import registry
from luthier.models import serving
from luthier.recipe import load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
DECODERS = [file for file in RECIPES if file.stem != "seq2seq"]  # that one runs in test_pairs_run.py
SMALL = ["model.model_name_or_path=embedded-tiny", "model.dtype=float32", "train.max_steps=2"]
SMALL += ["train.per_device_train_batch_size=2", "train.logging_steps=1"]
RANKS = {"sft-rslora": "method.r=8"}  # 256 is more than the smallest model's layers have


@pytest.mark.parametrize("file", DECODERS, ids=lambda file: file.stem)
def test_it_trains_and_loads(file, alpaca_file, tmp_path):
    if file.stem == "qlora":
        pytest.importorskip("bitsandbytes")
    words = [*SMALL, f"output_dir={tmp_path}/run"]
    words += [f"data.train={alpaca_file}"] if load_recipe(file).recipe.data.train[0].path == "rows.jsonl" else []
    words += [RANKS[file.stem]] if file.stem in RANKS else []
    words += ["train.eval_steps=1"] if load_recipe(file).recipe.train.eval_steps else ["data.eval=[]"]
    resolved = load_recipe(file, words)
    result = luthier.train(resolved)
    assert result.summary["steps"] == 2
    assert result.summary["flops"] > 0
    assert result.trainable.num_trainable > 0
    folder = result.trainable.folder
    assert any((tmp_path / "run" / folder).glob("*.safetensors"))
    loaded, _ = luthier.load(tmp_path / "run")
    torch.testing.assert_close(answer(loaded), answer(result.model), atol=1e-4, rtol=0)  # norms are fused in training


def answer(model) -> torch.Tensor:
    """What the model says of some text: logits, values, or hidden states of one without a head."""
    with serving(model):
        found = model(input_ids=torch.arange(3, 20)[None], use_cache=False)
    return next(iter(found.values()))


def test_every_method_and_objective_has_a_recipe():
    found = [load_recipe(file).recipe for file in RECIPES]
    assert {recipe.method["name"] for recipe in found} == set(registry.entries("methods"))
    assert {recipe.objective["name"] for recipe in found} == set(registry.entries("objectives"))


def test_a_recipe_is_named_as_its_output():
    assert {file.stem: load_recipe(file).recipe.output_dir for file in RECIPES} == {
        file.stem: f"runs/{file.stem}" for file in RECIPES
    }
