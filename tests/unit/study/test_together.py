# SPDX-License-Identifier: Apache-2.0
"""Which runs of a study share a base, what is said of those that cannot, and that shared runs end as they do alone."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from tests.runs import tree as recipe_tree

import luthier
from luthier.cohort import Asked, train_together
from luthier.core.errors import RecipeError
from luthier.recipe import load_recipe
from luthier.study import compare
from luthier.study.design import design
from luthier.study.schema import load_study
from luthier.study.together import alone_lines, share_out


@pytest.fixture
def study(tmp_path, tiny_llama, alpaca_file):
    """Three runs that can share, and one that trains the base."""
    suite = tmp_path / "mine.jsonl"
    suite.write_text(json.dumps({"prompt": "Give the opposite. hot", "answer": "cold"}) + "\n")
    recipe = recipe_tree(tiny_llama, alpaca_file, tmp_path / "unused")
    recipe["data"]["packing"] = False
    return {
        "base": {key: value for key, value in recipe.items() if key != "output_dir"},
        "variants": {"r2": {"method.r": 2}, "full": {"method": "full"}, "r8": {"method.r": 8, "method.bias": "all"}},
        "seeds": [0],
        "evaluate": str(suite),
        "output_dir": str(tmp_path / "study"),
    }


def names(groups):
    return [[f"{planned.variant}/{planned.seed}" for planned in group] for group in groups]


def test_what_trains_the_base_or_has_another_runs_alone(tree):
    tree["variants"] |= {
        "full": {"method": "full"},
        "wide": {"model.dtype": "float32"},
        "compiled": {"train.torch_compile": True},
        "recomputed": {"train.gradient_checkpointing": True},
    }
    groups = share_out(design(load_study(tree)).runs)
    assert names(groups) == [["r4/0", "r8/0"], ["full/0"], ["wide/0"], ["compiled/0"], ["recomputed/0"]]
    assert alone_lines(groups) == [
        "full runs alone: method full trains the base itself",
        "wide runs alone: no other run has its base model in the same numbers",
        "compiled runs alone: train.torch_compile is on",
        "recomputed runs alone: train.gradient_checkpointing is on",
    ]


def test_groups_keep_every_place_busy(tree):
    tree["seeds"] = list(range(10))
    runs = design(load_study(tree)).runs
    assert [len(group) for group in share_out(runs)] == [8, 8, 4]
    assert [len(group) for group in share_out(runs, 5)] == [4, 4, 4, 4, 4]
    assert sorted(name for group in names(share_out(runs, 3)) for name in group) == sorted(
        f"{run.variant}/{run.seed}" for run in runs
    )


def test_a_study_on_a_shared_base_finds_what_runs_alone_find(study, tmp_path):
    said: list[str] = []
    shared = compare(study, say=said.append)
    assert any(line.startswith("2 runs side by side on one base") for line in said)
    assert "full runs alone: method full trains the base itself" in said
    alone = compare(study, ["together=false", f"output_dir={tmp_path / 'alone'}"])
    assert [run.variant for run in shared.runs] == ["base", "r2", "full", "r8"]
    for one, other in zip(shared.runs, alone.runs, strict=True):
        assert not one.error
        assert one.summary.get("final_loss", 0.0) == pytest.approx(other.summary.get("final_loss", 0.0), rel=1e-5)
    assert [run.summary.get("shared") for run in shared.runs] == [None, 2, 1, 2]
    assert all(run.reused for run in compare(study).runs)


def test_the_same_run_under_two_names_is_done_once(study):
    study["variants"] = {"r2": {"method.r": 2}, "r8": {"method.r": 8}, "two": {"method.r": 2}}
    said: list[str] = []
    result = compare(study, say=said.append)
    assert any(line.startswith("2 runs side by side on one base") for line in said)
    assert [run.variant for run in result.runs] == ["base", "r2", "r8", "two"]
    assert result.runs[3].reused
    assert result.runs[1].summary["final_loss"] == result.runs[3].summary["final_loss"]


def test_a_member_that_cannot_be_made_costs_no_other(study):
    study["variants"]["bad"] = {"method.target_modules": ["no_such_layer"]}
    said: list[str] = []
    result = compare(study, say=said.append)
    assert [run.variant for run in result.failed] == ["bad"]
    assert "no_such_layer" in result.failed[0].error
    assert any(line.startswith("2 runs side by side on one base") for line in said)


def test_what_does_not_fit_into_memory_follows(study, tmp_path, monkeypatch):
    recipes = [study["base"] | {"output_dir": str(tmp_path / str(k)), "seed": k} for k in range(3)]
    seen = []

    def free(device):
        seen.append(device)
        return 10_000_000 if len(seen) == 1 else None

    monkeypatch.setattr("luthier.cohort.free_bytes", free)
    monkeypatch.setattr("luthier.cohort.need_of", lambda *_: SimpleNamespace(growth=8_850_000, states=0))
    said: list[str] = []
    found = dict(train_together([Asked(resolved=load_recipe(recipe)) for recipe in recipes], say=said.append))
    assert "1 of 3 runs fit into memory side by side; the others follow" in said
    assert [found[place].summary["shared"] for place in range(3)] == [1, 2, 2]


def test_a_shared_run_is_taken_up_alone(study, tmp_path):
    """Its folder is that of any run: a checkpoint of a shared run goes on by itself, and the result loads."""
    recipe = study["base"] | {"output_dir": str(tmp_path / "one"), "seed": 3}
    recipe["train"] = recipe["train"] | {"save_steps": 2, "save_total_limit": None}
    other = recipe | {"output_dir": str(tmp_path / "two"), "seed": 4}
    results = dict(train_together([Asked(resolved=load_recipe(one)) for one in (recipe, other)]))
    wanted = results[0].summary
    folder = tmp_path / "one"
    assert {"recipe.yaml", "metrics.jsonl", "ledger.json", "summary.json", "adapter", "checkpoints"} <= {
        path.name for path in folder.iterdir()
    }
    assert wanted["shared"] == 2
    for name in ("summary.json", "adapter/adapter_model.safetensors"):
        (folder / name).unlink()
    (folder / "adapter" / "adapter_config.json").unlink()
    (folder / "checkpoints" / "step-4" / "manifest.json").write_text("{}")
    again = luthier.train(recipe, resume=True)
    assert again.summary["steps"] == 4
    assert again.summary["final_loss"] == pytest.approx(wanted["final_loss"], rel=1e-5)
    luthier.load(folder)


def test_recipes_that_cannot_share_are_refused(study, tmp_path):
    recipes = [study["base"] | {"output_dir": str(tmp_path / name)} for name in ("a", "b")]
    recipes[1] = recipes[1] | {"method": "full"}
    with pytest.raises(RecipeError, match="method full trains the base itself"):
        next(train_together([Asked(resolved=load_recipe(recipe)) for recipe in recipes]))
    recipes[1] = recipes[0]
    with pytest.raises(RecipeError, match="one output_dir for several runs"):
        next(train_together([Asked(resolved=load_recipe(recipe)) for recipe in recipes]))
