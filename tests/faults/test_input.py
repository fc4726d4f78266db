# SPDX-License-Identifier: Apache-2.0
"""Wrong input: exit code 2, one line that says where, what, what is allowed and what to do; nothing is left behind."""

from __future__ import annotations

import json
import shutil

import pytest
from tests.runs import recipe_file, tree


@pytest.fixture
def recipe(tiny_llama, alpaca_file, tmp_path):
    return recipe_file(tmp_path, tree(tiny_llama, alpaca_file, tmp_path / "run"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "error: luthier: unknown command 'trian'; did you mean 'train'?"),
        (["train"], "error: luthier train: Missing argument 'recipe'"),
        (["train", "no.yaml"], "error: no.yaml: no such file"),
        (["train", "RECIPE", "--resum"], "No such option: --resum"),
        (["train", "RECIPE", "optim.lr=1"], "optim.lr: unknown key"),
        (["train", "RECIPE", "method.lora_aplha=1"], "did you mean 'lora_alpha'?"),
        (["train", "RECIPE", "train.max_steps=many"], "received 'many' (text); allowed: a whole number"),
        (["train", "RECIPE", "train.eval_steps=1"], "train.eval_steps: no rows to evaluate on"),
        (["train", "RECIPE", "train.report_to=tensorbard"], "did you mean 'tensorboard'?"),
        (["train", "RECIPE", "data.train=missing.jsonl"], "missing.jsonl"),
        (["train", "RECIPE", "model.model_name_or_path=./no-model"], "model ./no-model: no such folder"),
        (["train", "RECIPE", "model.adapter_name_or_path=./no-adapter"], "no adapter_config.json"),
        (["train", "RECIPE", "output_dir=/proc/version/run"], "output_dir: /proc/version/run cannot be written"),
        (["train", "RECIPE", "output_dir=/proc/self/no/run"], "cannot be written (No such file or directory)"),
        (["train", "RECIPE", "optim.warmup_steps=99", "train.max_steps=-1"], "optim.warmup_steps: 99 steps of "),
        (["train", "RECIPE", "--resume", "--overwrite"], "output_dir: both --resume and --overwrite"),
    ],
)
def test_messages(command, recipe, tmp_path, words, message):
    said = command(*(recipe if word == "RECIPE" else word for word in words))
    assert said.code == 2
    assert said.out == ""
    assert message in said.err
    assert said.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in said.err
    assert not (tmp_path / "run" / "recipe.yaml").exists(), "a run that did not begin does not occupy its folder"


def test_errors_as_json(command, recipe):
    said = command("train", recipe, "optim.optim=adamv", "--json")
    assert said.code == 2
    error = json.loads(said.out)["error"]
    assert error["kind"] == "RecipeError"
    assert error["exit_code"] == 2
    assert "did you mean 'adamw'?" in error["message"]


def test_help_and_version(command):
    assert "train" in command("--help").out
    assert command().out == command("help").out
    assert command("--version").out.startswith("luthier ")
    assert "--dry-run" in command("train", "--help").out


def test_a_run_is_not_overwritten_unasked(command, recipe, tmp_path):
    run = tmp_path / "run"
    assert command("train", recipe, "--quiet").code == 0
    before = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    said = command("train", recipe, "method.r=2", "--quiet")
    assert said.code == 2
    assert f"output_dir: {run} holds a run already; an empty or new folder; add --resume" in said.err
    assert (run / "adapter" / "adapter_model.safetensors").read_bytes() == before

    (run / "notes.txt").write_text("mine")
    assert command("train", recipe, "data.train=missing.jsonl", "--overwrite", "--quiet").code == 2
    assert (run / "adapter" / "adapter_model.safetensors").read_bytes() == before, "lost to a recipe that cannot run"
    assert command("train", recipe, "method.r=2", "--overwrite", "--quiet").code == 0
    assert (run / "adapter" / "adapter_model.safetensors").read_bytes() != before
    assert (run / "notes.txt").read_text() == "mine", "only what a run writes is removed"


@pytest.mark.parametrize("name", ["adapter", "model", "checkpoints", "recipe.yaml", "metrics.jsonl"])
@pytest.mark.parametrize("flag", ["--quiet", "--overwrite", "--resume"])
def test_what_no_run_wrote_is_never_touched(command, recipe, tmp_path, name, flag):
    place = tmp_path / "run" / name
    place.parent.mkdir()
    place.write_text("a user's own") if "." in name else place.mkdir()
    said = command("train", recipe, flag)
    assert said.code == 2
    assert f"holds {name}, which no run wrote" in said.err
    assert place.exists()


def test_a_file_in_the_place_of_the_folder(command, recipe, tmp_path):
    (tmp_path / "run").write_text("")
    assert "run is a file; a folder" in command("train", recipe).err


def test_one_process_at_a_time(command, recipe, tmp_path):
    from luthier.engine.folder import held

    with held(tmp_path / "run"):
        said = command("train", recipe)
    assert said.code == 2
    assert "another process is training into" in said.err


def test_a_model_without_weights(command, tiny_llama, recipe, tmp_path):
    shutil.copytree(tiny_llama, tmp_path / "half", ignore=shutil.ignore_patterns("*.safetensors"))
    said = command("train", recipe, f"model.model_name_or_path={tmp_path / 'half'}")
    assert said.code == 2
    assert "no weights; at least one *.safetensors file" in said.err


def test_trackers_that_are_not_installed(command, recipe, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    said = command("train", recipe, "train.report_to=wandb")
    assert said.code == 2
    assert "train.report_to: wandb: the package 'wandb' is not installed" in said.err
    assert "pip install 'luthier[trackers]'" in said.err
