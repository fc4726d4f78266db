# SPDX-License-Identifier: Apache-2.0
"""Uploads: what would fail is refused before anything runs, and what is uploaded is the proved folder.

There is no hub here: that the hub takes what `upload_folder` is given is not tested.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, constants

from luthier.cli import main
from luthier.core.errors import RecipeError, RunFailed, UserError
from luthier.export import hub
from luthier.recipe import load_recipe
from luthier.run import train

ROWS = {"model": {"model_name_or_path": "embedded-tiny"}, "data": {"train": "embedded:train", "max_length": 64}}


@pytest.fixture
def online(monkeypatch):
    """A process that may use the network and has a token; what reaches the hub's client is kept."""
    calls = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_never_sent")
    made = SimpleNamespace(repo_id="me/first")
    monkeypatch.setattr(HfApi, "create_repo", lambda self, *args, **words: calls.append((args, words)) or made)
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **words: calls.append(words))
    return calls


def recipe(folder, **keys):
    return load_recipe(ROWS | {"output_dir": str(folder), "train": {"max_steps": 1, "push_to_hub": True, **keys}})


@pytest.mark.parametrize("name", ["a b", "me/you/they", "-x", "x" * 200])
def test_names_that_are_none(online, name):
    with pytest.raises(UserError, match="NAME or OWNER/NAME"):
        hub.check_push(name, "--push-to")


def test_no_token(online, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match=r"--push-to: no token .*HF_TOKEN"):
        hub.check_push("me/first", "--push-to")


def test_offline():
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        hub.check_push("me/first", "--push-to")


def test_a_run_is_refused_before_it_begins(tmp_path):
    """Offline, as all tests are: nothing is read, loaded or written."""
    with pytest.raises(UserError, match=r"^train\.push_to_hub: HF_HUB_OFFLINE"):
        train(recipe(tmp_path / "run"))
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_a_run_uploads_its_result(tmp_path, online):
    train(recipe(tmp_path / "run", hub_private_repo=True))
    created, uploaded = online
    assert created == (("run",), {"private": True, "exist_ok": True})
    assert uploaded["repo_id"] == "me/first"
    assert uploaded["folder_path"] == tmp_path / "run" / "adapter"
    card = (tmp_path / "run" / "adapter" / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "| train | `embedded:train` |" in card
    assert str(tmp_path) not in card


def test_an_export_is_uploaded_once_it_is_proved(bench, online, capsys):
    adapter, out = bench.adapter(bench.base()), bench.folder / "out"
    with pytest.raises(SystemExit):
        main(["export", str(adapter), "--output", str(out), "--push-to", "me/first", "--bound", "1e-30"])
    assert online == []
    main(["export", str(adapter), "--output", str(out), "--push-to", "me/first"])
    assert online[0] == (("me/first",), {"private": False, "exist_ok": True})
    words = online[1]
    assert words["folder_path"] == out
    assert words["ignore_patterns"] == hub.LEFT_OUT
    assert "uploaded to me/first" in capsys.readouterr().err


def test_a_hub_that_says_no(bench, online, monkeypatch):
    def refuse(self, **words):
        raise OSError("403: no")

    monkeypatch.setattr(HfApi, "upload_folder", refuse)
    with pytest.raises(RunFailed, match=r"me/first was not uploaded \(403: no\).*the result is whole"):
        hub.push(bench.folder, "me/first", "--push-to", say=print)


def test_the_keys_change_no_weight(tmp_path):
    plain = load_recipe(ROWS | {"output_dir": str(tmp_path), "train": {"max_steps": 1}})
    assert recipe(tmp_path, hub_model_id="me/x").fingerprint == plain.fingerprint
    with pytest.raises(RecipeError, match=r"^train\.push_to_hub: false, with a repository"):
        load_recipe(ROWS | {"train": {"hub_model_id": "me/x"}})


def test_other_tools_recipes():
    tree = {"model_name_or_path": "embedded", "dataset_name": "embedded:train", "push_to_hub": True}
    found = load_recipe(tree | {"hub_model_id": "me/x", "hub_private_repo": True, "hub_strategy": "end"})
    train_section = json.loads(found.recipe.model_dump_json())["train"]
    assert [train_section[key] for key in ("push_to_hub", "hub_model_id", "hub_private_repo")] == [True, "me/x", True]
    assert "hub_strategy" in found.translation.idle
