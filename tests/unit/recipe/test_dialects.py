# SPDX-License-Identifier: Apache-2.0
"""Other tools' recipes: recognised, overridden by keys of either kind, refused by name, converted without a change."""

from __future__ import annotations

import json
import re

import pytest
from tests.unit.recipe.foreign_recipes import AXOLOTL, LLAMAFACTORY, RSLORA, TRL_DPO, TRL_SFT

from luthier.cli import main
from luthier.core import registry
from luthier.core.errors import RecipeError
from luthier.recipe import foreign, load_recipe
from luthier.recipe.dialects._draft import Only
from luthier.recipe.text import parse

KINDS = list(registry.entries("recipe.dialects"))
ALL = {"rslora": RSLORA, "trl_sft": TRL_SFT, "trl_dpo": TRL_DPO, "axolotl": AXOLOTL}


@pytest.fixture
def written(tmp_path):
    def write(text, name="old.yaml"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    return write


@pytest.mark.parametrize(
    ("text", "name"), [(RSLORA, "trl"), (TRL_SFT, "trl"), (AXOLOTL, "axolotl"), (LLAMAFACTORY, "llamafactory")]
)
def test_each_is_recognised_by_its_keys(text, name):
    assert foreign.dialect_of(parse(text)) is registry.get("recipe.dialects", name)


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"model": {"model_name_or_path": "x"}, "lora_r": 8},
        {"optim": {"learning_rate": 0.1}, "learning_rate": 0.1},
        {"modle": {}, "dta": {}},
        {"method": "lora", "base_model": "x"},
    ],
)
def test_a_tree_with_a_section_of_ours_is_ours(tree):
    assert foreign.dialect_of(tree) is None


@pytest.mark.parametrize(
    ("tree", "what"),
    [
        ({"compute_environment": "LOCAL_MACHINE", "distributed_type": "FSDP"}, "accelerate launch"),
        ({"zero_optimization": {"stage": 3}}, "DeepSpeed"),
    ],
)
def test_a_launchers_file_is_called_what_it_is(tree, what):
    with pytest.raises(RecipeError, match=f"{what}.*torchrun"):
        load_recipe(tree)


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_what_is_given_has_the_origin_recipe(text):
    resolved = load_recipe(parse(text))
    assert resolved.translation is not None
    assert {resolved.origins[place] for place in resolved.translation.moved} == {"recipe"}
    assert resolved.origins["optim.adam_beta1"] == "default"


def test_keys_of_both_kinds_override():
    tree = parse(TRL_DPO)
    words = ["model_name_or_path=embedded", "output_dir=x", "lora_r=4", "method.lora_alpha=2", "optim=sgd"]
    resolved = load_recipe(tree, [*words, "optim.momentum=0.9", "gradient_checkpointing_kwargs.use_reentrant=true"])
    recipe = resolved.recipe
    assert recipe.model.model_name_or_path == "embedded"
    assert recipe.output_dir == "x"
    assert (recipe.method["r"], recipe.method["lora_alpha"]) == (4, 2)
    assert (recipe.optim.optim, recipe.optim.momentum) == ("sgd", 0.9)
    overridden = {key for key, origin in resolved.origins.items() if origin == "override"}
    ours = {"method.lora_alpha", "optim.momentum"}
    assert overridden == {"model.model_name_or_path", "output_dir", "method.r", "optim.optim"} | ours


def test_an_override_mends_what_would_be_refused():
    tree = parse(TRL_DPO) | {"fp16": True}
    with pytest.raises(RecipeError, match=r"^fp16: received true .*bf16: true"):
        load_recipe(tree)
    assert load_recipe(tree, ["fp16=false"]).fingerprint == load_recipe(parse(TRL_DPO)).fingerprint


def test_an_override_names_the_objective():
    resolved = load_recipe(parse(TRL_DPO), ["objective=orpo"])
    assert resolved.recipe.objective == {"name": "orpo", "beta": 0.05}
    assert resolved.origins["objective.name"] == "override"
    with pytest.raises(RecipeError, match=r"^objective: received 'dop' .*did you mean 'dpo'"):
        load_recipe(parse(TRL_DPO), ["objective=dop"])


def test_all_refusals_are_told_at_once():
    tree = parse(TRL_SFT) | {"neftune_noise_alpha": 5, "optim": "muon", "lerning_rate": 0.1}
    with pytest.raises(RecipeError) as told:
        load_recipe(tree)
    text = str(told.value)
    assert text.startswith("recipe of TRL: 3 keys cannot be honoured:")
    assert "\n  neftune_noise_alpha: received 5" in text
    assert "\n  optim: received 'muon'" in text
    assert "\n  lerning_rate: unknown key; did you mean 'learning_rate'?" in text


def test_a_wrong_value_is_told_of_the_key_that_was_written():
    with pytest.raises(RecipeError, match=r"^lora_r \(method\.r\): received 'many'"):
        load_recipe(parse(TRL_DPO) | {"lora_r": "many"})


@pytest.mark.parametrize("name", KINDS)
def test_every_key_of_a_table_is_known_and_every_refusal_says_what_to_write(name):
    dialect = registry.get("recipe.dialects", name)
    off = [key for key in dialect.KEYS if key.endswith("*")]
    plain = sorted(dialect.KEYS - set(off)) + [f"{key[:-1]}something" for key in off]
    translated = dialect.translate(dict.fromkeys(plain, "?"))
    assert [str(error) for error in translated.refused if error.received == "unknown key"] == []
    assert [str(error) for error in translated.refused if not error.fix] == []
    told = {key for keys in translated.moved.values() for key in keys} | set(translated.idle)
    told |= {word for error in translated.refused for word in error.where.split()}
    assert set(plain) - told == set()


@pytest.mark.parametrize("value", ["?", 3, 0.5, True, [1], [{"path": 1}], {"a": 1}, "", [], {}], ids=repr)
@pytest.mark.parametrize("name", KINDS)
def test_no_value_is_too_strange(name, value):
    dialect = registry.get("recipe.dialects", name)
    keys = [key for key in dialect.KEYS if not key.endswith("*")]
    for key in keys:
        dialect.translate({key: value})
    found = dialect.translate(dict.fromkeys(keys, value))
    told = {key for keys in found.moved.values() for key in keys} | set(found.idle)
    told |= {word for error in found.refused for word in re.split(r"[. ]", error.where)}
    assert set(keys) - told == set()


@pytest.mark.parametrize("name", KINDS)
def test_null_is_the_default_and_is_named(name):
    dialect = registry.get("recipe.dialects", name)
    meaningful = {"max_length", "max_seq_length", "save_total_limit"}  # null says something there
    keys = [key for key in dialect.KEYS if not key.endswith("*") and key not in meaningful]
    translated = dialect.translate(dict.fromkeys(keys))
    assert translated.refused == ()
    assert set(translated.idle) | {key for keys in translated.moved.values() for key in keys} == set(keys)


@pytest.mark.parametrize("name", KINDS)
def test_what_must_be_off_is_refused_where_it_is_on(name):
    dialect = registry.get("recipe.dialects", name)
    for key, only in dialect.ONLY.items():
        assert isinstance(only, Only)
        refused = {error.where: error for error in dialect.translate({key: {"a": 1}}).refused}
        assert refused[key].fix == only.fix
        for value in only.values:
            assert key not in {error.where for error in dialect.translate({key: value}).refused}


@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_a_converted_recipe_is_the_same_recipe(text, written, tmp_path, capsys):
    new = tmp_path / "new.yaml"
    main(["convert", str(written(text)), "-o", str(new)])
    before, after = load_recipe(parse(text)), load_recipe(new)
    assert after.translation is None
    assert after.fingerprint == before.fingerprint
    assert after.recipe == before.recipe
    assert {key for key, o in before.origins.items() if o == "default"} == {
        key for key, o in after.origins.items() if o == "default"
    }
    assert "no effect here: " in capsys.readouterr().err
    assert "# no effect here: " in new.read_text(encoding="utf-8")


def test_convert_writes_what_was_overridden(written, capsys):
    main(["convert", str(written(TRL_DPO)), "lora_r=4", "data.max_length=99"])
    tree = parse(capsys.readouterr().out)
    assert (tree["method"]["r"], tree["data"]["max_length"]) == (4, 99)


def test_convert_as_json(written, capsys):
    main(["convert", str(written(AXOLOTL)), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["dialect"] == "Axolotl"
    assert found["moved"]["method.r"] == ["lora_r"]
    assert load_recipe(found["recipe"]).fingerprint == found["fingerprint"]


def test_convert_replaces_nothing(written, tmp_path, capsys):
    (tmp_path / "new.yaml").write_text("mine", encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        main(["convert", str(written(TRL_DPO)), "-o", str(tmp_path / "new.yaml")])
    assert stopped.value.code == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "new.yaml").read_text(encoding="utf-8") == "mine"


def test_train_says_what_became_of_each_key(written, tmp_path, capsys):
    words = ["model_name_or_path=embedded-tiny", "dataset_mixer={missing.jsonl: 1.0}", f"output_dir={tmp_path}/run"]
    with pytest.raises(SystemExit):
        main(["train", str(written(TRL_SFT)), *words])
    told = capsys.readouterr().err
    assert "missing.jsonl: no such file" in told
    assert "a recipe of TRL, translated" in told
    assert "no effect here: " in told
    assert "use_flash_attention_2" in told
