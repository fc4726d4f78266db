# SPDX-License-Identifier: Apache-2.0
"""A method in one file outside the package: recipes, commands, docs, contract, runs and studies know it."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest
from tests.contract import test_methods, test_methods_in_runs
from tests.runs import Command, recipe_file, start, tree

import luthier
from luthier.core import plugins, registry
from luthier.core.errors import RecipeError, UserError
from luthier.recipe import describe, load_recipe
from luthier.study import compare

NAME, OURS = "layer_scale", Path(__file__).parents[2] / "examples" / "plugins" / "methods" / "layer_scale.py"
CONTRACT = [
    pytest.param(function, family, id=f"{function.__name__}-{family}")
    for module in (test_methods, test_methods_in_runs)
    for function in vars(module).values()
    if inspect.isfunction(function) and function.__module__ == module.__name__ and function.__name__.startswith("test_")
    for family in (["llama", "gpt2"] if "family" in inspect.signature(function).parameters else ["llama"])
]
BARE = {"model": {"model_name_or_path": "embedded-tiny"}, "data": {"train": "rows.jsonl"}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of plug-ins with one method; nothing of it stays."""
    found = tmp_path / "plugins"
    (found / "methods").mkdir(parents=True)
    shutil.copy(OURS, found / "methods")
    monkeypatch.setenv(plugins.VARIABLE, str(found))
    yield found
    for kind in ("methods", "data.formats", "engine.optim"):
        if (package := sys.modules.get(f"luthier.{kind}")) is not None:
            package.__path__[:] = [place for place in package.__path__ if str(tmp_path) not in place]
    if sys.modules.pop(f"luthier.methods.{NAME}", None) is not None:
        delattr(sys.modules["luthier.methods"], NAME)


@pytest.fixture
def command(capsys):
    return Command(capsys)


def test_recipes_know_it_and_are_strict(folder):
    resolved = load_recipe(BARE, [f"method={NAME}"])
    assert resolved.recipe.method == {"name": NAME, "gain": 10.0, "modules_to_save": []}
    with pytest.raises(RecipeError, match=r"method.gian: unknown key; did you mean 'gain'\?"):
        load_recipe(BARE | {"method": {"name": NAME, "gian": 2.0}})
    with pytest.raises(RecipeError, match=r"method.gain: received 0.0 .*; allowed: more than 0"):
        load_recipe(BARE | {"method": {"name": NAME, "gain": 0.0}})
    with pytest.raises(RecipeError, match=r"method.name: unknown name 'layer_scael'; did you mean 'layer_scale'\?"):
        load_recipe(BARE | {"method": "layer_scael"})


def test_without_the_variable_it_is_not_there(folder, monkeypatch):
    assert NAME in registry.entries("methods")
    monkeypatch.delenv(plugins.VARIABLE)
    assert NAME not in registry.entries("methods")
    with pytest.raises(RecipeError, match="unknown name 'layer_scale'"):
        load_recipe(BARE, [f"method={NAME}"])


def test_commands_and_docs_name_it(folder, command):
    assert re.search("^layer_scale +Layer scale: one trained vector", command("methods").out, re.MULTILINE)
    told = json.loads(command("methods", NAME, "--json").out)
    assert (told["name"], [key["key"] for key in told["keys"]]) == (NAME, ["gain", "modules_to_save"])
    said = command("methods", NAME).out
    assert "gain  (number > 0.0; default 10.0)\n      What a trained number counts" in said
    table = describe.renew("<!-- keys of methods: made by luthier.recipe.describe --><!-- end of keys -->")
    assert "### `layer_scale`\n\nLayer scale: one trained vector" in table
    assert "| `gain` | `10.0` | number > 0.0 | What a trained number counts" in table
    assert command("methods", "layer_scal").err.startswith("error: methods: unknown name 'layer_scal'; did you mean")


@pytest.mark.parametrize(("function", "family"), CONTRACT)
def test_it_keeps_the_contract_of_all_methods(folder, function, family, tmp_path, tiny_llama, alpaca_file):
    given = {"name": NAME, "family": family, "tmp_path": tmp_path, "tiny_llama": tiny_llama, "alpaca_file": alpaca_file}
    function(**{key: given[key] for key in inspect.signature(function).parameters})


@pytest.mark.e2e
def test_a_process_trains_it_and_another_says_why_it_is_not_merged(folder, tiny_llama, alpaca_file, tmp_path):
    file = recipe_file(tmp_path, tree(tiny_llama, alpaca_file, tmp_path / "run", method=NAME))
    for words, code in ((("train", file), 0), (("merge", tmp_path / "run"), 2)):
        process = start(*words)
        _, said = process.communicate(timeout=180)
        assert process.returncode == code, said
    assert "error: merge: a scale of what a whole layer gives" in said


@pytest.mark.e2e
def test_a_study_compares_it_in_workers_and_does_it_again_when_its_file_changes(
    folder, tiny_llama, alpaca_file, tmp_path
):
    suite = tmp_path / "mine.jsonl"
    suite.write_text(json.dumps({"prompt": "1+1?", "answer": "2"}) + "\n", encoding="utf-8")
    study = {
        "base": {
            "model": {"model_name_or_path": str(tiny_llama), "dtype": "float32"},
            "data": {"train": str(alpaca_file), "max_length": 96},
            "train": {"max_steps": 2, "per_device_train_batch_size": 1},
        },
        "variants": {
            "lora": {"method.r": 2},
            "scale": {"method": NAME},
            "more": {"method": {"name": NAME, "gain": 20}},
        },
        "evaluate": str(suite),
        "output_dir": str(tmp_path / "study"),
        "jobs": 2,
    }
    result = compare(study)
    runs = {run.variant: run for run in result.runs}
    assert {name: run.error for name, run in runs.items()} == dict.fromkeys(["base", "lora", "scale", "more"], "")
    assert runs["scale"].summary["trainable_parameters"] == 2 * 64
    assert all(run.reused for run in compare(study).runs)
    with (folder / "methods" / f"{NAME}.py").open("a", encoding="utf-8") as file:
        file.write("\n# Another version.\n")
    again = {run.variant: run.reused for run in compare(study | {"jobs": 1}).runs}
    assert again == {"base": True, "lora": True, "scale": False, "more": False}


def test_other_kinds_and_shared_files(folder, command, tiny_llama, alpaca_file, tmp_path):
    """A data format and an optimiser whose module takes something from its neighbour."""
    (folder / "data" / "formats").mkdir(parents=True)
    shutil.copy(
        Path(luthier.__file__).parent / "data" / "formats" / "alpaca.py", folder / "data" / "formats" / "ours.py"
    )
    (folder / "engine" / "optim").mkdir(parents=True)
    (folder / "engine" / "optim" / "_shared.py").write_text("RATE = 0.5\n", encoding="utf-8")
    (folder / "engine" / "optim" / "halved.py").write_text(
        '"""SGD with half the rate."""\nimport torch\nfrom luthier.engine.optim._shared import RATE\n'
        "def make(groups, optim):\n    return torch.optim.SGD([g | {'lr_scale': RATE} for g in groups], lr=1.0)\n"
        "def state_bytes(optim):\n    return 0\n",
        encoding="utf-8",
    )
    assert re.search("^ours +Instruction", command("formats").out, re.MULTILINE)
    assert re.search("^halved +SGD with half the rate.", command("optimizers").out, re.MULTILINE)
    keys = {"data": {"train": [{"path": str(alpaca_file), "format": "ours"}]}, "optim": {"optim": "halved"}}
    assert luthier.train(tree(tiny_llama, alpaca_file, tmp_path / "run", **keys)).summary["steps"] == 4


def broken(folder, name, text):
    file = folder / "methods" / f"{name}.py"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_name_that_is_taken_is_refused(folder):
    file = broken(folder, "lora", '"""Mine."""\n')
    with pytest.raises(UserError, match=f"{plugins.VARIABLE}: {file}: its name is that of .*methods/lora.py; .*rename"):
        registry.entries("methods")


def test_a_file_that_is_no_python_is_told(folder):
    file = broken(folder, "half", "def apply(:\n")
    with pytest.raises(UserError, match=rf"{file}: cannot be read as Python \(invalid syntax"):
        load_recipe(BARE)


def test_a_file_that_is_no_method_is_told(folder):
    file = broken(folder, "other", '"""Something else."""\n')
    with pytest.raises(UserError, match=f"{file}: no Config; an entry of luthier.methods defines Config, apply"):
        load_recipe(BARE, ["method=other"])


def test_folders_that_cannot_be(tmp_path, monkeypatch, command):
    monkeypatch.setenv(plugins.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=f"{plugins.VARIABLE}: .*nowhere is no folder"):
        load_recipe(BARE)
    said = command("methods")
    assert (said.code, said.err.startswith(f"error: {plugins.VARIABLE}: ")) == (2, True)
    (tmp_path / "method").mkdir()
    monkeypatch.setenv(plugins.VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match="holds no folder of entries; methods/, objectives/, data/formats/"):
        registry.entries("methods")


def test_an_installed_package_is_listed_without_being_imported(tmp_path, monkeypatch):
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n", encoding="utf-8")
    (package / "wonder.py").write_text('"""Wonder: a method of theirs."""\n', encoding="utf-8")
    (tmp_path / "their_module.py").write_text(
        '"""Plain: one module."""\nConfig = object\n\n\ndef apply():\n    pass\n', encoding="utf-8"
    )
    points = [
        metadata.EntryPoint("wonder", "their_package.wonder", "luthier.methods"),
        metadata.EntryPoint("plain", "their_module", "luthier.methods"),
        metadata.EntryPoint("gone", "not_there.at_all", "luthier.methods"),
    ]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(metadata, "entry_points", lambda *, group: points if group == "luthier.methods" else [])
    registry._entries.cache_clear()
    try:
        known = registry.entries("methods")
        assert known["wonder"] == "Wonder: a method of theirs."
        assert (known["plain"], known["gone"]) == ("Plain: one module.", "from not_there.at_all")
        assert registry.get("methods", "plain").__name__ == "their_module"
    finally:
        registry._entries.cache_clear()
        sys.modules.pop("their_module", None)
