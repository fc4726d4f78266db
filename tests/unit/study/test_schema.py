# SPDX-License-Identifier: Apache-2.0
"""Study files: three ways to write a variant, overrides, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from luthier.core.errors import DataError, RecipeError
from luthier.evaluate.suite import load_suite
from luthier.recipe import load_recipe
from luthier.study.demo import PARTS, shipped
from luthier.study.design import design
from luthier.study.schema import load_study, words_of

ROOT = Path(__file__).parents[3]


def test_a_variant_is_a_tree_dotted_keys_or_words(tree):
    tree["variants"] = {
        "tree": {"method": {"r": 4}, "optim": {"learning_rate": 0.01}},
        "dotted": {"method.r": 4, "optim.learning_rate": 0.01},
        "words": ["method.r=4", "optim.learning_rate=1e-2"],
        "nothing": None,
    }
    plan = design(load_study(tree))
    made = {run.variant: run.resolved for run in plan.runs}
    assert len({made[name].fingerprint for name in ("tree", "dotted", "words")}) == 1
    assert made["words"].recipe.method["r"] == 4
    assert made["nothing"].recipe.method["r"] == 16


def test_base_may_be_a_file(tree, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(tree["base"] | {"data": {"train": "rows.jsonl"}}), encoding="utf-8")
    study = load_study(tree | {"base": str(file)}, ["base.train.max_steps=7", "seeds=[3,4]", "variants.r4.method.r=5"])
    assert study.base["train"]["max_steps"] == 7
    assert study.seeds == (3, 4)
    assert study.variants["r4"] == {"method.r": 4, "method": {"r": 5}}


def test_shipped_sets_have_names(tree):
    train = load_study(tree).base["data"]["train"]
    assert train == "embedded:train"  # and so it stands in what a study writes: no path of this machine
    with pytest.raises(RecipeError, match="did you mean 'train'"):
        load_study(tree, ["base.data.train=embedded:trian"])


def test_a_method_of_its_own_brings_no_keys_of_the_base(tree):
    for full in ("full", {"name": "full"}):
        plan = design(load_study(tree | {"variants": {"full": {"method": full}}}))
        assert plan.runs[0].resolved.recipe.method["name"] == "full"
        assert "r" not in plan.runs[0].resolved.recipe.method


def test_the_same_method_keeps_the_keys_of_the_base(tree):
    tree["base"]["method"]["lora_alpha"] = 3
    plan = design(load_study(tree | {"variants": {"a": {"method": {"name": "lora", "r": 2}}}}))
    assert plan.runs[0].resolved.recipe.method["lora_alpha"] == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"varaints": {}}, "study varaints: unknown key; did you mean 'variants'"),
        ({"evaluate": None}, "study evaluate"),
        ({"variants": {}}, "study variants"),
        ({"seeds": [0, 0]}, "each seed once"),
        ({"seeds": ["a"]}, "study seeds.0: received 'a'"),
        ({"baseline": "r44"}, "unknown variant 'r44'; did you mean 'r4'"),
        ({"variants": {"a/b": {}}}, "each variant is a folder"),
        ({"variants": {"base": {}}}, "each variant is a folder"),
        ({"variants": {"a": {"seed": 1}}}, "the study sets seeds and folders"),
        ({"variants": {"a": {"output_dir": "x"}}}, "the study sets seeds and folders"),
        ({"variants": {"a": ["method.r"]}}, "no '='"),
        ({"variants": {"a": {"method.rnak": 1}}}, "study variants.a: method.rnak: unknown key"),
        ({"base": {"model": {"model_name_or_path": "embedded"}}}, "study base: data"),
    ],
)
def test_what_is_wrong_is_named(tree, change, said):
    with pytest.raises(RecipeError) as error:
        design(load_study(tree | change))
    assert said in str(error.value)


def test_words_are_key_value():
    with pytest.raises(RecipeError, match="no '='"):
        load_study({}, ["seeds"])
    assert words_of({}) == ()
    assert words_of({"data": {"train": [{"path": "x"}]}}) == ('data.train=[{"path": "x"}]',)


def test_runs_go_seed_by_seed_each_in_its_folder(tree):
    plan = design(load_study(tree | {"seeds": [1, 2]}))
    assert [(run.variant, run.seed) for run in plan.runs] == [("r4", 1), ("r8", 1), ("r4", 2), ("r8", 2)]
    for run in plan.runs:
        assert run.resolved.recipe.seed == run.seed
        assert run.resolved.recipe.output_dir == str(run.folder)
        assert run.folder == Path(tree["output_dir"]) / "runs" / run.variant / f"seed-{run.seed}"


def test_the_keys_that_differ_are_found(tree):
    variants = {"r4": {"method.r": 4}, "full": {"method": "full"}}
    plan = design(load_study(tree | {"variants": variants}))
    assert plan.differing["method.r"] == {"r4": 4, "full": None}
    assert plan.differing["method.name"] == {"r4": "lora", "full": "full"}
    assert all(key.startswith("method.") for key in plan.differing)
    assert plan.uncontrolled() == []
    assert plan.common("method.lora_alpha") == 16
    assert plan.common("optim.learning_rate") == 1e-3
    assert plan.common("method.r") == 4


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("data.max_length", 64, "examples (data.max_length)"),
        ("train.per_device_train_batch_size", 1, "examples (train.per_device_train_batch_size)"),
        ("train.max_steps", 9, "amount of training (train.max_steps)"),
        ("model.model_name_or_path", "embedded", "base model (model.model_name_or_path)"),
    ],
)
def test_what_is_not_controlled_is_said(tree, key, value, what):
    plan = design(load_study(tree | {"variants": {"a": {}, "b": {key: value}}}))
    assert plan.uncontrolled() == [what]


@pytest.mark.parametrize("name", ["demo", *PARTS])
def test_shipped_studies_load_and_are_shown_in_the_repository(name):
    plan = design(load_study(shipped(name)))
    assert [load_suite(suite) for suite in plan.study.evaluate]
    settings = {json_key: plan.common(json_key) for json_key in ("train.max_steps", "data.max_length")}
    assert settings == {"train.max_steps": 150, "data.max_length": 128}
    shown = ROOT / "studies" / shipped(name).name
    assert shown.read_text("utf-8") == shipped(name).read_text("utf-8"), f"copy {shipped(name)} to studies/"


@pytest.mark.parametrize("file", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda file: file.name)
def test_every_study_of_the_repository_loads(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert design(load_study(file)).runs


def test_suites_are_checked_before_anything_runs(tree, tmp_path):
    from luthier.study import compare

    with pytest.raises(DataError, match="no such file"):
        compare(tree | {"evaluate": "nothing.jsonl"})
    assert not (tmp_path / "study" / "runs").exists()
    assert load_recipe(tree["base"]).fingerprint
