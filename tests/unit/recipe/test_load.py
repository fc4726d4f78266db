# SPDX-License-Identifier: Apache-2.0
"""YAML, overrides and Python are one tree; every value knows where it came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.core.errors import RecipeError
from luthier.recipe import Data, Model, Optim, Recipe, Train, load_recipe, source_of
from luthier.recipe.fingerprint import WITHOUT_EFFECT

TEXT = """
model: {model_name_or_path: embedded}
data: {train: rows.jsonl, max_length: 128}
method: {name: lora, r: 8, target_modules: [q_proj, v_proj], rank_pattern: {q_proj: 4}}
optim: {learning_rate: 2e-4}
train: {report_to: none}
seed: 7
"""
TREE = {
    "model": {"model_name_or_path": "embedded"},
    "data": {"train": "rows.jsonl", "max_length": 128},
    "method": {"name": "lora", "r": 8, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 4}},
    "optim": {"learning_rate": 2e-4},
    "train": {"report_to": "none"},
    "seed": 7,
}
BARE = {"model": {"model_name_or_path": "embedded"}, "data": {"train": "rows.jsonl"}}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_yaml_tree_recipe_and_overrides_are_one(file):
    recipe = Recipe(
        model=Model(model_name_or_path="embedded"),
        data=Data(train="rows.jsonl", max_length=128),
        method=TREE["method"],
        optim=Optim(learning_rate=2e-4),
        train=Train(report_to=()),
        seed=7,
    )
    words = ["data.max_length=128", "optim.learning_rate=2e-4", "seed=7", "method.r=8", "train.report_to=none"]
    words += ["method.target_modules=[q_proj, v_proj]", "method.rank_pattern={q_proj: 4}"]
    ways = [load_recipe(file), load_recipe(str(file)), load_recipe(TREE), load_recipe(recipe), load_recipe(BARE, words)]
    assert [way.recipe for way in ways] == [ways[0].recipe] * 5
    assert {way.fingerprint for way in ways} == {ways[0].fingerprint}


def test_python_trees_may_hold_paths_and_tuples(tmp_path):
    given = load_recipe({**BARE, "data": {"train": (tmp_path / "a.jsonl",)}, "output_dir": tmp_path})
    assert given.recipe.data.train[0].path == str(tmp_path / "a.jsonl")
    assert given.recipe.output_dir == str(tmp_path)


def test_origins(file):
    origins = load_recipe(file, ["method.r=16", "method.rank_pattern.v_proj=2", "data.train=[a, b]"]).origins
    assert {key for key, origin in origins.items() if origin == "override"} == {
        "method.r", "method.rank_pattern", "data.train",
    }  # fmt: skip
    assert {key for key, origin in origins.items() if origin == "recipe"} == {
        "model.model_name_or_path", "data.max_length", "method.name", "method.target_modules", "optim.learning_rate",
        "train.report_to", "seed",
    }  # fmt: skip
    assert origins["output_dir"] == origins["method.lora_alpha"] == "default"


def test_an_override_touches_its_own_key_only():
    origins = load_recipe({**BARE, "method": {"name": "lora", "rank_pattern": {"q_proj": 4}}}, ["method.r=2"]).origins
    assert origins["method.rank_pattern"] == "recipe"  # `method.r` is a beginning of its name


@pytest.mark.parametrize("given", [{"method": "full"}, {"method": {"name": "full"}}])
def test_a_name_stands_for_its_section(given):
    resolved = load_recipe({**BARE, **given})
    assert resolved.recipe.method["name"] == "full"
    assert resolved.origins["method.name"] == "recipe"
    assert load_recipe(BARE, ["method=full"]).origins["method.name"] == "override"


def test_replacing_a_section_forgets_its_keys():
    resolved = load_recipe({**BARE, "method": {"name": "lora", "r": 4}}, ["method=full"])
    assert "r" not in resolved.recipe.method
    assert "method.r" not in resolved.origins


def test_a_section_without_name_has_the_default_entry():
    resolved = load_recipe(BARE, ["method.r=8"])
    assert (resolved.recipe.method["name"], resolved.recipe.method["r"]) == ("lora", 8)
    assert resolved.origins["method.name"] == "default"


def test_an_empty_section_is_one_of_defaults():
    assert load_recipe({**BARE, "optim": None}).recipe.optim == Optim()


@pytest.mark.parametrize(
    ("word", "value"),
    [("2e-4", 2e-4), ("2.0e-4", 2e-4), ("1E-3", 1e-3), ("5", 5.0), (".5", 0.5), ("-1e3", None), ("1_0", 10.0)],
)
def test_numbers(word, value):
    if value is None:
        with pytest.raises(RecipeError, match="more than 0"):
            load_recipe(BARE, [f"optim.learning_rate={word}"])
    else:
        assert load_recipe(BARE, [f"optim.learning_rate={word}"]).recipe.optim.learning_rate == value


@pytest.mark.parametrize("key", sorted(WITHOUT_EFFECT))
def test_keys_without_effect_are_not_in_the_fingerprint(key):
    values = {"output_dir": "elsewhere", "train.report_to": "[progress]", "train.push_to_hub": "true"}
    values |= {"train.hub_model_id": "me/first", "train.hub_private_repo": "true", "train.skip_memory_check": "true"}
    words = [f"{key}={values.get(key, 7)}"] + ["train.push_to_hub=true"] * key.startswith("train.hub")
    other = load_recipe(BARE, words)
    assert other.recipe != load_recipe(BARE).recipe
    assert other.fingerprint == load_recipe(BARE).fingerprint


@pytest.mark.parametrize("word", ["seed=1", "method.r=3", "optim.optim=sgd", "data.packing=false", "train.max_steps=3"])
def test_keys_with_effect_are(word):
    assert load_recipe(BARE, [word]).fingerprint != load_recipe(BARE).fingerprint


def test_the_fingerprint_stays_what_it_is():
    """A change here makes every unfinished run unresumable: it must be on purpose."""
    first = load_recipe(BARE).fingerprint
    assert len(first) == 16
    assert first == load_recipe(Path(__file__).parents[2] / "unit/recipe/bare.yaml").fingerprint


def test_a_recipe_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_recipe(BARE).recipe.seed = 3


def test_a_source_on_the_command_line_is_a_path_or_a_mapping():
    assert source_of("rows.csv", "--data").path == "rows.csv"
    told = source_of("{path: rows.csv, format: pairs, columns: {sentence1: 0, score: grade}}", "--data")
    assert (told.format, told.columns) == ("pairs", {"sentence1": 0, "score": "grade"})


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("{path: a", r"--data: \{path: a; a path, or \{path"),
        ("{pth: a}", "--data.pth: unknown key; did you mean 'path'"),
        ("{path: a, columns: 3}", "--data.columns: received 3"),
    ],
)
def test_a_source_that_is_none_is_told(word, said):
    with pytest.raises(RecipeError, match=said):
        source_of(word, "--data")
