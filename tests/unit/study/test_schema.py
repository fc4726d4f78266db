# SPDX-License-Identifier: Apache-2.0
"""Study files: three ways to write a variant, overrides, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from luthier.core import registry
from luthier.core.errors import DataError, RecipeError
from luthier.evaluate.suite import load_suite
from luthier.recipe import load_recipe
from luthier.study.demo import PARTS, shipped
from luthier.study.design import design, resolve_start
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


TUNE = {"keys": {"optim.learning_rate": [1e-3, 1e-2]}, "on": "embedded-dev"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"budget": {"steps": 5, "tokens": 9}},
            "study budget: tokens and steps at once; exactly one of scored_tokens,",
        ),
        ({"budget": {}}, "study budget: nothing; exactly one of"),
        ({"budget": {"steps": 0}}, "study budget.steps: received 0 (whole number); allowed: more than 0"),
        ({"budget": {"flop": 1e9}}, "study budget.flop: unknown key; did you mean 'flops'"),
        (
            {"budget": {"steps": 5}, "variants": {"a": {"train.max_steps": 3}}},
            "study variants.a: train.max_steps, and a budget as well; one of them says how long runs are",
        ),
        ({"budget": {"steps": 5}, "tune": TUNE | {"keys": {"train.max_steps": [1, 2]}}}, "study tune.keys: train.max"),
        ({"claims": [{"better": "r4", "than": "r9"}]}, "study claims.0: unknown variant 'r9'; did you mean 'r8'"),
        ({"claims": [{"better": "r4"}]}, "study claims.0: received better; one of {better: A, than: B}"),
        ({"claims": [{"at_least": "r4", "than": "r8"}]}, "study claims.0: received at_least, than; one of"),
        ({"claims": [{}]}, "study claims.0: received nothing"),
        ({"claims": [{"no_difference": ["r4", "r4"]}]}, "study claims.0: 'r4' twice; two variants"),
        ({"claims": [{"beter": "r4", "than": "r8"}]}, "study claims.0.beter: unknown key; did you mean 'better'"),
        (
            {"claims": [{"better": "r4", "than": "r8", "on": "embedded-math"}]},
            "study claims.0.on: unknown suite 'embedded-math'; did you mean 'embedded'",
        ),
        (
            {"claims": [{"at_least": "r4", "as": "base"}], "include_base": False},
            "study claims.0: unknown variant 'base'",
        ),
        ({"tune": TUNE | {"on": "embedded"}}, "study tune.on: 'embedded', which is in evaluate; a suite of its own"),
        ({"tune": TUNE | {"keys": {}}}, "study tune.keys"),
        ({"tune": TUNE | {"keys": {"optim.learning_rate": []}}}, "study tune.keys.optim.learning_rate: no value"),
        ({"tune": TUNE | {"keys": {"optim.rate": [1]}}}, "study tune.keys.optim.rate: unknown key"),
        (
            {"tune": TUNE | {"keys": {"method.r": [4, 8]}}},
            "study tune.keys.method.r: the variant 'r4' (or an axis) sets",
        ),
        ({"tune": TUNE | {"variants": ["r5"]}}, "study tune.variants: unknown variant 'r5'; did you mean"),
        ({"tune": TUNE | {"beside": True}, "variants": {"a": {}, "a-tuned": {}}}, "study tune.beside: 'a-tuned' is a"),
        ({"tune": {"keys": {"optim.learning_rate": [1e-3]}}}, "study tune.on: missing"),
        ({"start": {"method": "lora"}}, "study base.model.model_name_or_path: 'embedded-tiny', and `start` as well"),
    ],
)
def test_what_contradicts_itself_is_named(tree, change, said):
    with pytest.raises(RecipeError) as error:
        design(load_study(tree | change))
    assert said in str(error.value)


def test_a_tuned_key_is_no_axis(tree):
    tree |= {"variants": {}, "axes": {"optim.learning_rate": [1e-3]}, "tune": TUNE}
    with pytest.raises(RecipeError, match=r"study tune.keys.optim.learning_rate: .* \(or an axis\) sets it too"):
        load_study(tree)


def test_a_starting_model_is_whole(tree):
    del tree["base"]["model"]
    start = {"model": {"model_name_or_path": "embedded-tiny"}, "data": {"train": "embedded:train"}}
    for method, said in (("lora", "'lora'"), (None, "'lora (the default)'")):
        given = start | ({"method": method} if method else {})
        with pytest.raises(RecipeError, match=f"study start.method: method {re.escape(said)} leaves an adapter"):
            load_study(tree | {"start": given})
    study = load_study(tree | {"start": start | {"method": "full"}})
    assert study.base["model"]["model_name_or_path"] == str(Path(tree["output_dir"]) / "start" / "model")
    assert load_study(study.tree()) == study
    with pytest.raises(RecipeError, match=r"study start: optim.learning_rte: unknown key"):
        resolve_start(load_study(tree | {"start": start | {"method": "full", "optim": {"learning_rte": 1}}}))


def test_claims_say_what_they_are(tree):
    claims = [{"better": "r8", "than": "r4"}, {"no_difference": ["r4", "r8"]}, {"at_least": "r8", "as": "base"}]
    study = load_study(tree | {"claims": claims})
    assert [(claim.kind, claim.first, claim.second, claim.on) for claim in study.claims] == [
        ("better", "r8", "r4", None),
        ("no_difference", "r4", "r8", None),
        ("at_least", "r8", "base", None),
    ]
    assert study.tree()["claims"] == claims


def test_a_study_file_says_on_and_means_it(tree, tmp_path):
    file = tmp_path / "study.yaml"
    text = yaml.safe_dump(tree) + "tune: {keys: {optim.learning_rate: [1e-3, 1e-2]}, on: embedded-dev}\n"
    file.write_text(text, encoding="utf-8")
    study = load_study(file, ["tune.keys.optim.weight_decay=[0.0, 0.1]"])
    assert study.tune.on == "embedded-dev"
    assert set(study.tune.keys) == {"optim.learning_rate", "optim.weight_decay"}


def test_the_study_of_all_methods_has_all_methods():
    for file in ("methods.yaml", "at-scale/methods.yaml"):
        study = yaml.safe_load((ROOT / "studies" / file).read_text("utf-8"))
        methods = [tree.get("method", "lora") for tree in study["variants"].values()]
        assert {m["name"] if isinstance(m, dict) else m for m in methods} == set(registry.entries("methods")), file


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


@pytest.mark.parametrize("file", sorted((ROOT / "studies").rglob("*.yaml")), ids=lambda file: file.name)
def test_every_study_of_the_repository_loads(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert design(load_study(file)).runs


def test_suites_are_checked_before_anything_runs(tree, tmp_path):
    from luthier.study import compare

    with pytest.raises(DataError, match="no such file"):
        compare(tree | {"evaluate": "nothing.jsonl"})
    assert not (tmp_path / "study" / "runs").exists()
    assert load_recipe(tree["base"]).fingerprint
