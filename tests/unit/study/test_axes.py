# SPDX-License-Identifier: Apache-2.0
"""A grid over recipe keys: readable, stable, unique names, and what is refused."""

from __future__ import annotations

import pytest

from luthier.core.errors import RecipeError
from luthier.study.axes import NAME, expand
from luthier.study.design import design
from luthier.study.schema import load_study


@pytest.mark.parametrize(
    ("axes", "names"),
    [
        ({"method.r": [4, 16], "method.use_rslora": [False, True]}, "r4 r4-rslora r16 r16-rslora"),
        ({"method.use_rslora": [False, True]}, "no-rslora rslora"),
        ({"optim.learning_rate": [1e-3, 2.5e-4, 1e-5]}, "lr0.001 lr0.00025 lr1e-05"),
        ({"model.model_name_or_path": ["embedded", "org/Some-Model 7B"]}, "embedded Some-Model-7B"),
        ({"method": ["full", {"name": "lora", "r": 8, "use_rslora": True}]}, "full lora-r8-rslora"),
        ({"data.train": {"few": [{"path": "a.jsonl"}], "many": ["a.jsonl", "b.jsonl"]}}, "few many"),
        ({"data.system": [None, "Be kind."]}, "system=none Be-kind."),
        ({"train.max_steps": [50], "method.lora_alpha": [16.0]}, "steps50-alpha16"),
        ({"method.bias": ["none", "all"], "data.loss_on": ["all", "last"]}, "none-all none-last all-all all-last"),
    ],
)
def test_names(axes, names):
    found = expand({}, axes)
    assert list(found) == names.split()
    assert all(NAME.fullmatch(name) for name in found)


def test_names_that_clash_are_written_out():
    same = {"method": ["lora", {"name": "lora", "use_rslora": False}]}
    assert list(expand({}, same)) == ["method=lora", "method=name-lora-use_rslora-False"]
    clash = {"model.model_name_or_path": ["a/x", "b/x"], "method.r": [1]}
    with pytest.raises(RecipeError, match="two points of one name"):
        expand({}, clash)
    odd = {"method.lora_alpha": [2.0, 2.0000001]}
    with pytest.raises(RecipeError, match="name them"):
        expand({}, odd)


def test_a_new_value_renames_nothing():
    few = expand({}, {"method.r": [4, 16], "method.use_rslora": [False, True]})
    more = expand({}, {"method.r": [4, 16, 64], "method.use_rslora": [False, True]})
    assert {name: more[name] for name in few} == few


def test_variants_are_crossed_with_the_grid(tree):
    tree["variants"] = {"lora": {"method.r": 4}, "full": {"method": "full"}}
    tree["axes"] = {"optim.learning_rate": [1e-3, 1e-2]}
    plan = design(load_study(tree))
    made = {run.variant: run.resolved.recipe for run in plan.runs}
    assert list(made) == ["lora-lr0.001", "lora-lr0.01", "full-lr0.001", "full-lr0.01"]
    assert made["full-lr0.01"].optim.learning_rate == 1e-2
    assert made["full-lr0.01"].method["name"] == "full"
    assert made["lora-lr0.001"].method["r"] == 4
    assert plan.study.axis == "optim.learning_rate"


def test_a_loaded_study_is_whole(tree):
    del tree["variants"]
    tree |= {"axes": {"method.r": [4, 8]}, "baseline": "r8", "claims": [{"at_least": "r8", "as": "r4"}]}
    study = load_study(tree)
    assert load_study(study.tree()) == study == load_study(study)
    assert list(study.variants) == ["r4", "r8"]


def test_words_reach_the_grid(tree):
    study = load_study(tree | {"variants": {}}, ["axes.method.r=[2, 3]", "axes.optim.learning_rate=[1e-3]"])
    assert list(study.variants) == ["r2-lr0.001", "r3-lr0.001"]


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"method.r": []}, "study axes.method.r: no value; one value or more"),
        ({"method.r": 4}, "study axes.method.r: received 4 (whole number); a list of values"),
        ({"method.r": [4, 4]}, "study axes.method.r: 4 twice; each value once"),
        ({"optim.learning_rte": [1e-3]}, "study axes.optim.learning_rte: unknown key; did you mean 'learning_rate'"),
        ({"learning_rate": [1e-3]}, "study axes.learning_rate: unknown key; did you mean 'optim.learning_rate'"),
        ({"method.rnak": [1]}, "method.rnak: unknown key"),
        ({"seed": [1, 2]}, "study axes.seed: set by the study"),
        ({"data.train": [["a.jsonl"]]}, "a list as a value; values with names"),
        ({"data.train": {"a/b": ["a.jsonl"]}}, "study axes.data.train: name 'a/b'"),
        ({"method.r": ["x"]}, "study variants.x: method.r: received 'x'"),
    ],
)
def test_what_is_wrong_with_an_axis_is_named(tree, axes, said):
    with pytest.raises(RecipeError) as error:
        design(load_study(tree | {"variants": {}, "axes": axes}))
    assert said in str(error.value)


def test_a_key_is_said_in_one_place(tree):
    for given in ({"method.r": 4}, {"method": {"r": 4}}):
        with pytest.raises(RecipeError, match=r"study variants.a: 'method.r' is on the axis 'method.r'; one place"):
            load_study(tree | {"variants": {"a": given}, "axes": {"method.r": [8]}})
    with pytest.raises(RecipeError, match="study variants: missing, and no axes"):
        load_study(tree | {"variants": {}})
