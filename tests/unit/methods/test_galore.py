# SPDX-License-Identifier: Apache-2.0
"""GaLore and APOLLO on models and in runs: what is projected and trains, ranks, 16-bit weights, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tests.cohorts import base_of, trees, work_on
from tests.ranks import on_ranks
from tests.reward import base, reward
from tests.runs import bits, stop_before, tree
from tests.tiny import tiny

import luthier
from luthier.core.errors import RecipeError
from luthier.engine.loop import fit
from luthier.methods import apollo, galore
from luthier.recipe import load_recipe

METHODS = {"galore": galore, "apollo": apollo}
each = pytest.mark.parametrize("name", METHODS)


def applied(name, model, **keys):
    method = METHODS[name]
    return method.apply(model, method.Config(**keys))


@each
def test_matrices_are_projected_and_the_rest_trains_plainly(name):
    trainable = applied(name, tiny("llama"), rank=3, target_modules=["q_proj", "down_proj"])
    assert trainable.parameters().keys() == dict(trainable.model.named_parameters()).keys()
    ends = {n.split(".", 3)[-1] for n in trainable.transforms}
    assert ends == {"self_attn.q_proj.weight", "mlp.down_proj.weight"}
    for key, transform in trainable.transforms.items():
        rows, columns = trainable.parameters()[key].shape
        assert transform.shape == ((3, columns) if rows < columns else (rows, 3)), key


@each
def test_only_targets_train_where_that_is_asked_for(name, tmp_path):
    trainable = applied(name, tiny("llama"), only_targets=True, target_modules="mlp", freeze=["layers.0."])
    assert trainable.parameters().keys() == trainable.transforms.keys()
    assert {n.split(".")[2] for n in trainable.parameters()} == {"1"}
    names = applied(name, reward(base(tmp_path / "base")), only_targets=True).parameters()
    assert "score.weight" in names, "a head that was drawn always trains"


@each
@pytest.mark.parametrize("family", ["tied", "gpt2"])
def test_a_tied_matrix_is_projected_once(name, family):
    model = tiny(family)
    embedding = "wte" if family == "gpt2" else "embed_tokens"
    trainable = applied(name, model, rank=4, target_modules=[embedding])
    assert len(trainable.transforms) == 1
    assert trainable.transforms.keys() <= trainable.parameters().keys()


@each
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"target_modules": ["p_proj"]}, "'p_proj' names no layer"),
        ({"freeze": ["nothing"]}, "method.freeze: 'nothing' matches no parameter"),
        ({"freeze": ["proj"]}, "method.freeze: every target is frozen"),
    ],
)
def test_what_matches_nothing_is_refused(name, keys, words):
    model = tiny("llama")
    with pytest.raises(RecipeError, match=words):
        applied(name, model, **keys)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("optim", ["adafactor", "adamw_8bit", "adamw_bnb_8bit", "lion_8bit"])
def test_moments_that_cannot_turn_are_refused_before_anything_is_loaded(optim, tmp_path):
    keys = {"name": "galore", "moments": "rotate"}
    given = tree(tmp_path, tmp_path, tmp_path / "run", method=keys, optim={"optim": optim})
    with pytest.raises(RecipeError, match=r"method\.moments: rotate, with an optimiser .*adamw, lion, sgd"):
        load_recipe(given)
    assert load_recipe(given | {"method": {**keys, "moments": "reset"}}).fingerprint


@each
@pytest.mark.parametrize(
    ("dtype", "optim"),
    [
        ("float32", {"optim": "adamw", "weight_decay": 0.1}),
        ("bfloat16", {"optim": "lion"}),
        ("bfloat16", {"weights": "bfloat16_stochastic", "optim": "adafactor"}),
    ],
)
def test_a_run_resumed_between_projections_ends_in_the_same_bits(name, dtype, optim, tiny_llama, alpaca_file, tmp_path):
    def recipe(folder):
        method = {"name": name, "rank": 4, "update_proj_gap": 3}
        words = {
            "model": {"dtype": dtype},
            "method": method,
            "optim": optim,
            "train": {"save_steps": 2, "max_steps": 5},
        }
        return tree(tiny_llama, alpaca_file, tmp_path / folder, **words)

    said = []
    luthier.train(recipe("whole"), say=said.append)
    stop_before(3, recipe("stopped"))
    luthier.train(recipe("stopped"), resume=True)
    assert bits(tmp_path / "whole") == bits(tmp_path / "stopped")
    assert any("gradients of 14 matrices are made smaller: the optimiser sees" in line for line in said)
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    counted = (tmp_path / "whole" / "checkpoints" / "step-5" / "optimizer.safetensors").stat().st_size
    assert summary["optimizer_bytes"] < 8 * summary["trainable_parameters"]
    if optim["optim"] != "adafactor":  # its rows and columns are next to nothing on large matrices
        assert summary["optimizer_bytes"] <= counted <= summary["optimizer_bytes"] + 20_000, "names and counters"


def run(folder, name, ranks=None):
    """Three steps on a tiny model; several ranks share each step's trees."""
    model = base_of("llama", torch.float64)
    torch.manual_seed(0)
    trainable = applied(name, model, rank=4, update_proj_gap=2)
    rank, world = (ranks.rank, ranks.world) if ranks else (0, 1)
    work = replace(
        work_on(base_of("llama", torch.float64), folder, 0, {"r": 2}, train={"max_steps": 5}),
        trainable=trainable,
        batches=lambda step: [[one for batch in trees(0, step) for one in batch][rank::world]],
        eval_batches=(),
        **({"ranks": ranks} if ranks else {}),
    )
    folder.mkdir(parents=True, exist_ok=True)
    fit(work)
    return {n: p.detach().double() for n, p in trainable.parameters().items()}


@each
def test_ranks_project_the_mean_gradient(name, tmp_path):
    alone = run(tmp_path / "alone", name)
    found = on_ranks(2, lambda ranks: {n: p.tolist() for n, p in run(tmp_path / "ranks", name, ranks).items()})
    assert found[0] == found[1]
    for key, value in alone.items():
        assert (torch.tensor(found[0][key], dtype=torch.float64) - value).abs().max() < 1e-8, key
