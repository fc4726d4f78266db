# SPDX-License-Identifier: Apache-2.0
"""Uploads: what would fail is refused before anything runs, and what arrives at a hub is the proved folder.

The hub is a server on this machine; huggingface_hub's own client speaks to it over HTTP.
"""

from __future__ import annotations

import json
import logging

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tests.hub import TOKEN, Hub

import luthier
from luthier.cli import main
from luthier.core.errors import LuthierError, RecipeError, RunFailed, UserError
from luthier.export import hub
from luthier.export.origin import find_result
from luthier.export.result_proof import prove_result
from luthier.recipe import load_recipe

FEW = [{"path": "embedded:train", "max_rows": 40}]
ROWS = {"model": {"model_name_or_path": "embedded-tiny"}, "data": {"train": FEW, "max_length": 64}}


@pytest.fixture
def online(monkeypatch, caplog, capfd):
    """A hub, a process that may reach it, and a token that no line of a log has."""
    server = Hub()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    caplog.set_level(logging.DEBUG)
    yield server
    server.shutdown()
    server.server_close()
    said = capfd.readouterr()
    assert TOKEN not in caplog.text + said.out + said.err


def recipe(folder, **keys):
    words = {"max_steps": 2, "per_device_train_batch_size": 2, "push_to_hub": True, **keys}
    return load_recipe(ROWS | {"output_dir": str(folder), "method": {"name": "lora", "r": 2}, "train": words})


@pytest.mark.parametrize("name", ["a b", "me/you/they", "-x", "x" * 200])
def test_names_that_are_none(online, name):
    with pytest.raises(UserError, match="NAME or OWNER/NAME"):
        hub.check_push(name, "--push-to")


def test_tokens_that_may_not_write(online, monkeypatch):
    hub.check_push("me/first", "--push-to")
    online.refuses["whoami"] = (429, "slower")
    hub.check_push("me/first", "--push-to")  # a study's runs ask one after another
    online.refuses.clear()
    online.role = "read"
    with pytest.raises(UserError, match="a token of me that may only read"):
        hub.check_push("me/first", "--push-to")
    online.role = None
    with pytest.raises(UserError, match=r"the hub refuses the token .*HF_TOKEN"):
        hub.check_push("me/first", "--push-to")
    online.refuses["whoami"] = (500, f"what is {TOKEN}")  # some repeat it in errors
    with pytest.raises(UserError) as refused:
        hub.check_push("me/first", "--push-to")
    assert TOKEN not in str(refused.value)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match=r"--push-to: no token .*HF_TOKEN"):
        hub.check_push("me/first", "--push-to")


def test_no_network(online, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"the hub at http://127\.0\.0\.1:9 was not reached .*HF_ENDPOINT"):
        hub.check_push("me/first", "--push-to")


def test_offline_a_run_is_refused_before_it_begins(tmp_path):
    """Offline, as all tests are: nothing is read, loaded or written."""
    with pytest.raises(UserError, match=r"^train\.push_to_hub: HF_HUB_OFFLINE is set"):
        luthier.train(recipe(tmp_path / "run"))
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_a_run_uploads_what_it_has_proved(tmp_path, online):
    said = []
    result = luthier.train(recipe(tmp_path / "run", hub_private_repo=True), say=said.append)
    assert online.repos == {"me/run": True}
    files, folder = online.files["me/run"], tmp_path / "run" / "adapter"
    kept = {"adapter_config.json", "adapter_model.safetensors", "README.md", "tokenizer.json"}
    assert kept <= files.keys() == {file.name for file in folder.iterdir()} - {"result_proof.json"}
    assert all((folder / name).read_bytes() == content for name, content in files.items())
    proof = json.loads((folder / "result_proof.json").read_text())
    assert proof["holds"] is True
    assert proof["adapter_kl"] > 0
    assert proof["max_logit_difference"] <= 1e-4
    card = files["README.md"].decode()
    for line in ("license: apache-2.0", "| train | `embedded:train` |", "library_name: peft", "Read again from disk"):
        assert line in card
    assert str(tmp_path) not in card
    assert any(line.startswith("the adapter names its base as ") for line in said)  # a folder of this machine
    assert not any(
        TOKEN in file.read_text(errors="replace") for file in (tmp_path / "run").rglob("*") if file.is_file()
    )
    _refuses_another_result(tmp_path, result)


def _refuses_another_result(tmp_path, result):
    """What stands on disk is another adapter: it would not be uploaded."""
    file = tmp_path / "run" / "adapter" / "adapter_model.safetensors"
    save_file({name: t + 0.1 * torch.randn_like(t) for name, t in load_file(file).items()}, file)
    with pytest.raises(RunFailed, match=r"the result is not what was trained: .*nothing was uploaded"):
        prove_result(find_result(tmp_path / "run"), result.trainable, "train.push_to_hub", print)


def test_a_whole_model_is_proved_and_uploaded(tmp_path, online):
    tree = recipe(tmp_path / "run", hub_model_id="team/whole").recipe.model_dump(mode="json") | {"method": "full"}
    luthier.train(tree)
    files = online.files["team/whole"]
    assert {"config.json", "model.safetensors", "README.md", "tokenizer.json"} <= files.keys()
    assert "AutoModelForCausalLM.from_pretrained" in files["README.md"].decode()
    assert json.loads((tmp_path / "run" / "model" / "result_proof.json").read_text())["holds"] is True


def test_an_export_is_uploaded_once_it_is_proved(bench, online, capfd):
    adapter, out = bench.adapter(bench.base()), bench.folder / "out"
    with pytest.raises(SystemExit):
        main(["export", str(adapter), "--output", str(out), "--push-to", "me/first", "--bound", "1e-30"])
    assert online.asked == ["GET /api/whoami-v2"]
    main(["export", str(adapter), "--output", str(out), "--push-to", "me/first"])
    assert online.repos == {"me/first": False}
    files = online.files["me/first"]
    assert files.keys() == {file.name for file in out.iterdir()} - {"merge_proof.json"}
    assert files["model.safetensors"] == (out / "model.safetensors").read_bytes()
    assert "uploaded to me/first" in capfd.readouterr().err


def test_a_hub_that_says_no(bench, online):
    (bench.folder / "model.txt").write_text("x")
    online.refuses["commit"] = (403, f"You have no right, {TOKEN}, to write here")
    with pytest.raises(
        RunFailed, match=r"me/first was not uploaded \(.*403.*the result is whole: `hf upload"
    ) as refused:
        hub.push(bench.folder, "me/first", "--push-to", say=print)
    error: BaseException | None = refused.value
    while error is not None:
        assert TOKEN not in str(error) or not isinstance(error, LuthierError)
        error = error.__cause__


def test_the_keys_change_no_weight(tmp_path):
    plain = load_recipe(
        ROWS | {"output_dir": str(tmp_path), "method": {"name": "lora", "r": 2}, "train": {"max_steps": 2}}
    )
    named = recipe(tmp_path, hub_model_id="me/x", per_device_train_batch_size=8)
    assert named.fingerprint == plain.fingerprint
    with pytest.raises(RecipeError, match=r"^train\.push_to_hub: false, with a repository"):
        load_recipe(ROWS | {"train": {"hub_model_id": "me/x"}})


def test_other_tools_recipes():
    tree = {"model_name_or_path": "embedded", "dataset_name": "embedded:train", "push_to_hub": True}
    given = tree | {"hub_model_id": "me/x", "hub_private_repo": True, "hub_strategy": "end", "hub_token": TOKEN}
    found = load_recipe(given)
    train_section = json.loads(found.recipe.model_dump_json())["train"]
    assert [train_section[key] for key in ("push_to_hub", "hub_model_id", "hub_private_repo")] == [True, "me/x", True]
    assert "hub_strategy" in found.translation.idle
    assert TOKEN not in found.to_yaml() + " ".join(found.notes)
