# SPDX-License-Identifier: Apache-2.0
"""`luthier advise`: what it prints and writes, a recipe beside the advice, and what a mistake gets."""

from __future__ import annotations

import json

import pytest
from tests.pairs import T5
from tests.runs import Command, recipe_file, tree
from transformers import AutoConfig

from luthier.advise import rows as rows_module
from luthier.recipe import load_recipe


@pytest.fixture
def luthier(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Command(capsys)


def document(said):
    assert said.code == 0, said.err
    return json.loads(said.out)


def test_a_model_and_its_rows(luthier, tiny_llama, alpaca_file):
    said = luthier("advise", tiny_llama, "--data", alpaca_file, "--memory", "2GB", "--device", "cpu")
    assert said.code == 0, said.err
    for word in ("learning_rate", "all-linear", "arXiv 2305.14314", "your rows", "40", "--memory", "starting values"):
        assert word in said.out, word


def test_what_is_written_trains(luthier, tiny_llama, alpaca_file, tmp_path):
    file = tmp_path / "first.yaml"
    said = luthier("advise", tiny_llama, "--data", alpaca_file, "--memory", "2GB", "--device", "cpu", "--write", file)
    assert said.code == 0, said.err
    assert f"written to {file}" in said.err
    dry = luthier("train", file, "--dry-run", "--json")
    assert dry.code == 0, dry.err
    assert json.loads(dry.out)["rows"] == 40
    again = luthier("advise", tiny_llama, "--data", alpaca_file, "--write", file)
    assert (again.code, "is there already" in again.err) == (2, True)


def test_json_is_the_same_advice(luthier, tiny_llama, alpaca_file):
    found = document(luthier("advise", tiny_llama, "--data", alpaca_file, "--memory", "2GB", "--json"))
    assert set(found) == {"facts", "advice", "memory", "notes", "recipe"}
    assert found["facts"]["data"]["rows"] == 40
    assert found["memory"]["fits"] is True
    recipe = load_recipe(found["recipe"]).recipe.model_dump(mode="json")
    for row in found["advice"]:
        section, _, key = row["key"].partition(".")
        assert recipe[section][key] == row["value"]
        assert row["reason"]
        assert row["sources"]


def test_judged_rows_are_for_preferences(luthier):
    found = document(luthier("advise", "embedded", "--data", "embedded:preference_train", "--memory", "2GB", "--json"))
    values = {row["key"]: row["value"] for row in found["advice"]}
    assert (values["objective.name"], values["objective.beta"]) == ("dpo", 0.1)
    assert values["optim.learning_rate"] < 3e-4


@pytest.mark.parametrize(
    ("rows", "objective"),
    [
        ("classify_train", "classification"),
        ("tags_train", "token_classification"),
        ("questions_train", "question_answering"),
        ("pairs_train", "contrastive"),
    ],
)
def test_rows_that_are_read_are_for_their_task(luthier, rows, objective, tmp_path):
    file = tmp_path / "first.yaml"
    said = luthier(
        "advise", "embedded", "--data", f"embedded:{rows}", "--memory", "4GB", "--json", "--write", str(file)
    )
    assert json.loads(said.out)["facts"]["objective"] == objective
    assert load_recipe(file).recipe.objective["name"] == objective


def test_a_recipe_stays_and_its_values_stand_beside(luthier, tiny_llama, alpaca_file, tmp_path):
    given = tree(tiny_llama, alpaca_file, tmp_path / "run", data={"max_length": 128, "max_prompt_length": None})
    file = recipe_file(tmp_path, given)
    before = file.read_bytes()
    found = document(luthier("advise", file, "--memory", "2GB", "--json"))
    assert file.read_bytes() == before
    beside = {row["key"]: (row["recipe"], row["agrees"]) for row in found["advice"]}
    assert beside["method.r"] == (4, False)
    assert beside["method.name"] == ("lora", True)
    assert any("train.max_steps is left out of what is written" in note for note in found["notes"])
    assert "max_steps" not in found["recipe"]["train"]
    assert found["recipe"]["output_dir"] == str(tmp_path / "run")
    shown = luthier("advise", file, "--memory", "2GB")
    assert "recipe" in shown.out
    assert "same" in shown.out


def test_advice_taken_is_no_difference(luthier, tiny_llama, alpaca_file, tmp_path):
    words = ("--memory", "2GB", "--device", "cpu")
    file = tmp_path / "taken.yaml"
    assert luthier("advise", tiny_llama, "--data", alpaca_file, *words, "--write", file).code == 0
    found = document(luthier("advise", file, *words, "--json"))
    assert [row["key"] for row in found["advice"] if not row["agrees"]] == []


def test_another_method_is_told(luthier, alpaca_file, tmp_path):
    given = {"model": {"model_name_or_path": "embedded"}, "data": {"train": str(alpaca_file)}, "method": "prefix"}
    file = recipe_file(tmp_path, given)
    found = document(luthier("advise", file, "--memory", "2GB", "--json"))
    assert any("--method prefix" in note for note in found["notes"])
    held = document(luthier("advise", file, "--memory", "2GB", "--method", "prefix", "--json"))
    values = {row["key"]: row["value"] for row in held["advice"]}
    assert (values["method.name"], values["optim.learning_rate"]) == ("prefix", 0.3)


def test_an_adapter_that_goes_on_keeps_its_method(luthier, alpaca_file, tmp_path):
    given = {
        "model": {"model_name_or_path": "embedded", "adapter_name_or_path": "somewhere"},
        "data": {"train": str(alpaca_file)},
        "method": {"name": "lora", "r": 3},
    }
    found = document(luthier("advise", recipe_file(tmp_path, given), "--memory", "2GB", "--json"))
    assert found["recipe"]["method"] == {"name": "lora", "r": 3}
    assert any("goes on from an adapter" in note for note in found["notes"])


def test_another_tools_recipe(luthier, alpaca_file, tmp_path):
    given = {"model_name_or_path": "embedded", "dataset_name": str(alpaca_file), "use_peft": True, "lora_r": 32}
    found = document(
        luthier("advise", recipe_file(tmp_path, given | {"learning_rate": 1e-4}), "--memory", "2GB", "--json")
    )
    beside = {row["key"]: row["recipe"] for row in found["advice"]}
    assert (beside["method.r"], beside["optim.learning_rate"]) == (32, 1e-4)


def test_a_family_whose_layers_do_not_run_gets_a_formula_and_is_told(luthier, tmp_path):
    from tests.parity.families import COMMON, REFUSED
    from transformers import AutoConfig

    kind, settings, _ = REFUSED["BLOOM"]
    AutoConfig.for_model(kind, **(COMMON | settings)).save_pretrained(tmp_path / "bloom")
    found = document(luthier("advise", tmp_path / "bloom", "--memory", "2GB", "--json"))
    assert found["facts"]["model"]["counted"] == "formula"
    assert any("`luthier train --dry-run` tells whether it trains here" in note for note in found["notes"])


def test_without_rows_it_is_a_guess_and_says_so(luthier):
    found = document(luthier("advise", "embedded", "--memory", "2GB", "--json"))
    assert found["facts"]["data"] is None
    assert any("no rows were named" in note for note in found["notes"])
    assert next(row["sure"] for row in found["advice"] if row["key"] == "data.max_length") == "low"


def test_what_does_not_fit_is_said_with_ways_out(luthier, alpaca_file):
    said = luthier("advise", "embedded", "--data", alpaca_file, "--memory", "20MB", "--device", "cpu")
    assert said.code == 0
    text = " ".join(said.out.split())
    assert "does not fit: weights" in text
    assert "What would help" in text


def test_large_files_are_read_in_part(luthier, tmp_path, monkeypatch):
    file = tmp_path / "many.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{n:06d}", "completion": "yes"}) + "\n" for n in range(5000)))
    monkeypatch.setattr(rows_module, "SAMPLE", 100)
    found = document(luthier("advise", "embedded", "--data", file, "--memory", "2GB", "--json"))["facts"]["data"]
    assert (found["rows"], found["sampled"], found["estimated"]) == (5000, 100, False)
    monkeypatch.setattr(rows_module, "READ_WHOLE", 1000)
    found = document(luthier("advise", "embedded", "--data", file, "--memory", "2GB", "--json"))["facts"]["data"]
    assert found["estimated"]
    assert found["rows"] == pytest.approx(5000, rel=0.02)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["embedded", "--memory", "lots"], "--memory: received 'lots'; a size of at least 1MB; write it as 24GB"),
        (["embedded", "--method", "lroa"], "method.name: unknown name 'lroa'; did you mean 'lora'?"),
        (["embedded", "--objective", "dppo"], "objective.name: unknown name 'dppo'; did you mean 'dpo'?"),
        (["embedded", "--data", "none.jsonl"], "none.jsonl: no such file or folder"),
        (["./nowhere"], "model ./nowhere: no such folder"),
        (["none.yaml"], "none.yaml: no such file; the path of a YAML recipe"),
        (["adapter"], "model adapter: an adapter folder, not a model"),
        (["embedded", "--memory", "1GB", "--write", "no/such/folder.yaml"], "cannot be written"),
        (["broken.yaml"], "optim.lerning_rate: unknown key; did you mean 'learning_rate'?"),
    ],
)
def test_mistakes(luthier, tmp_path, words, told):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    broken = {"model": {"model_name_or_path": "embedded"}, "data": {"train": "x.jsonl"}, "optim": {"lerning_rate": 1}}
    (tmp_path / "broken.yaml").write_text(json.dumps(broken))
    said = luthier("advise", *words)
    assert said.code == 2
    assert told in said.err
    assert "Traceback" not in said.err


def test_an_encoder_decoder_is_told_where_to_start(luthier, tmp_path):
    AutoConfig.for_model("t5", **T5).save_pretrained(tmp_path / "t5")
    said = luthier("advise", tmp_path / "t5")
    assert said.code == 2
    assert "t5, an encoder-decoder" in said.err
    assert "recipes/seq2seq.yaml" in said.err
