# SPDX-License-Identifier: Apache-2.0
"""`--resume` in every state that a folder can be in."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.runs import Stopped, bits, stop_before, tree

import luthier
from luthier.core.errors import RecipeError, RunFailed, UserError
from luthier.engine import checkpoint, loop

Recipes = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def recipes(tiny_llama, alpaca_file) -> Recipes:
    """Six steps: packing, dropout, accumulation, evaluation; a log line spans checkpoints."""

    def make(output_dir: Path, **train: object) -> dict[str, Any]:
        given = {"max_steps": 6, "save_steps": 2, "save_total_limit": None, "logging_steps": 3, "eval_steps": 2}
        data = {"eval": [{"path": str(alpaca_file), "max_rows": 8}]}
        return tree(tiny_llama, alpaca_file, output_dir, train=given | train, data=data)

    return make


def resume(recipe: dict[str, Any]):
    said: list[str] = []
    result = luthier.train(recipe, resume=True, say=said.append)
    return result, "\n".join(said)


@pytest.fixture(scope="module")
def made(recipes, tmp_path_factory) -> Path:
    """`whole`, never stopped, and `stopped` after step 5, with checkpoints 2 and 4."""
    folder = tmp_path_factory.mktemp("runs")
    luthier.train(recipes(folder / "whole"))
    stop_before(5, recipes(folder / "stopped"))
    return folder


@pytest.fixture
def whole(made, tmp_path) -> Path:
    return Path(shutil.copytree(made / "whole", tmp_path / "whole"))


@pytest.fixture
def stopped(made, tmp_path) -> Path:
    return Path(shutil.copytree(made / "stopped", tmp_path / "stopped"))


@pytest.mark.parametrize("saved", [2, 4])
def test_to_the_same_bits(recipes, made, stopped, saved):
    if saved == 2:
        shutil.rmtree(stopped / "checkpoints" / "step-4")
    _, said = resume(recipes(stopped))
    assert f"going on after step {saved} of 6, from {stopped}/checkpoints/step-{saved}" in said
    assert bits(stopped) == bits(made / "whole")


def test_keys_without_effect_may_change(recipes, made, stopped):
    resume(recipes(stopped, save_steps=1, save_total_limit=1, report_to=["tensorboard"]))
    assert bits(stopped) == bits(made / "whole")
    assert [path.name for path in (stopped / "checkpoints").iterdir()] == ["step-6"]


def test_a_finished_run_keeps_its_result(recipes, whole):
    shutil.rmtree(whole / "checkpoints")  # users clean up
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in _files(whole)}
    result, said = resume(recipes(whole))
    assert "this run is finished; its result is kept, there is nothing to do" in said
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in _files(whole)} == before
    assert result.summary == json.loads((whole / "summary.json").read_text())
    saved = luthier.load(whole)[0].state_dict()
    assert all((saved[name] == tensor).all() for name, tensor in result.model.state_dict().items())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


@pytest.mark.parametrize("lost", [["summary.json"], ["summary.json", "adapter"]])
def test_stopped_between_the_last_step_and_the_summary(recipes, made, whole, lost):
    for name in lost:
        path = whole / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    _, said = resume(recipes(whole))
    assert "going on after step 6 of 6" in said
    assert "(its training is done)" in said
    assert bits(whole) == bits(made / "whole")


@pytest.mark.parametrize("state", ["nothing", "an empty folder", "no checkpoint", "half of the first checkpoint"])
def test_no_checkpoint_yet(recipes, made, stopped, state):
    if state == "nothing":
        shutil.rmtree(stopped)
    else:
        half = stopped / "checkpoints" / ".writing-2-99"
        (stopped / "checkpoints" / "step-2").rename(half)
        shutil.rmtree(stopped / "checkpoints" / "step-4")
        if state == "an empty folder":
            shutil.rmtree(stopped)
            stopped.mkdir()
        elif state == "no checkpoint":
            shutil.rmtree(stopped / "checkpoints")
    _, said = resume(recipes(stopped))
    assert f"{stopped}: no checkpoint yet; training starts from the beginning" in said
    assert bits(stopped) == bits(made / "whole")
    assert not list(stopped.glob("checkpoints/.writing-*"))


@pytest.mark.parametrize(
    ("file", "how"),
    [
        ("parameters.safetensors", "cut"),
        ("parameters.safetensors", "changed"),
        ("optimizer.safetensors", "changed"),
        ("state.json", "gone"),
        ("manifest.json", "cut"),
        ("manifest.json", "gone"),
        ("manifest.json", "empty"),
    ],
)
def test_a_broken_newest_checkpoint(recipes, made, stopped, file, how):
    path = stopped / "checkpoints" / "step-4" / file
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "changed":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(content[:-7] if how == "cut" else b"{}")
    _, said = resume(recipes(stopped))
    assert f"checkpoint {path.parent} is broken (" in said
    assert "going on after step 2 of 6" in said
    assert bits(stopped) == bits(made / "whole")


def test_a_broken_checkpoint_pushes_no_whole_one_out(recipes, stopped):
    (stopped / "checkpoints" / "step-4" / "state.json").unlink()
    prune = checkpoint.prune

    def prune_and_stop(*given):
        prune(*given)
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "prune", prune_and_stop)
        with pytest.raises(Stopped):
            resume(recipes(stopped, save_steps=1, save_total_limit=1))
    assert {path.name for path in (stopped / "checkpoints").iterdir()} == {"step-3", "step-4"}
    assert checkpoint.newest_whole(stopped / "checkpoints").name == "step-3"


def test_no_whole_checkpoint_is_not_a_new_beginning(recipes, stopped):
    for path in (stopped / "checkpoints").glob("*/state.json"):
        path.write_text("{}")
    with pytest.raises(RunFailed, match=r"none of 2 is whole; .*or begin anew with --overwrite"):
        resume(recipes(stopped))


@pytest.fixture
def evaluations(monkeypatch):
    """Make evaluations find these losses, by step."""

    def find(losses: dict[int, float]) -> None:
        def evaluate(*_: object) -> dict[str, float]:
            return {"loss": losses[sys._getframe(1).f_locals["progress"].step]}

        monkeypatch.setattr(loop, "evaluate_loss", evaluate)

    return find


def test_an_early_stopped_run_stays_stopped(recipes, evaluations, tmp_path):
    evaluations({1: 5.0, 2: 4.0, 3: 4.5, 4: 4.1})
    early = {"early_stopping_patience": 2, "eval_steps": 1, "save_steps": 1}
    said: list[str] = []
    whole = luthier.train(recipes(tmp_path / "whole", **early), say=said.append)
    assert whole.summary["steps"] == 4
    lost = "stopping early after step 4: 2 evaluations without a better loss (4.0000 after step 2)"
    assert lost in "\n".join(said)

    run = tmp_path / "run"
    stop_before(3, recipes(run, **early))
    resumed, _ = resume(recipes(run, **early))
    assert resumed.summary["steps"] == 4
    assert bits(run) == bits(whole.folder)

    (run / "summary.json").unlink()  # as if killed while the result was written
    again, told = resume(recipes(run, **early))
    assert "going on after step 4 of 6" in told
    assert "(its training is done)" in told
    assert again.summary["steps"] == 4
    assert bits(run) == bits(whole.folder)


def test_the_best_model_survives_a_stop(recipes, evaluations, made, tmp_path):
    evaluations({1: 5.0, 2: 4.0, 3: 4.5, 4: 3.0, 5: 9.0, 6: 9.0})
    best = {"load_best_model_at_end": True, "save_total_limit": 1, "eval_steps": 1, "save_steps": 0}
    said: list[str] = []
    whole = luthier.train(recipes(tmp_path / "whole", **best), say=said.append)
    assert "the result is the model after step 4" in "\n".join(said)
    assert whole.summary["evaluation"]["loss"]["loss"]["value"] == 3.0
    assert {path.name for path in (whole.folder / "checkpoints").iterdir()} == {"step-4", "step-6"}
    fourth = checkpoint.load_file(made / "stopped" / "checkpoints" / "step-4" / "parameters.safetensors")
    trained = whole.trainable.parameters()
    assert all((trained[name] == tensor).all() for name, tensor in fourth.items())

    run = tmp_path / "run"
    stop_before(5, recipes(run, **best))
    resume(recipes(run, **best))
    assert bits(run) == bits(whole.folder)


def test_another_recipe(recipes, whole):
    other = recipes(whole) | {"seed": 1}
    with pytest.raises(RecipeError, match="holds a run of another recipe; resuming needs the same recipe; compare w"):
        resume(other)


def test_other_rows(recipes, alpaca_file, tmp_path):
    rows = Path(shutil.copy(alpaca_file, tmp_path / "rows.jsonl"))
    recipe = recipes(tmp_path / "run")
    recipe["data"] |= {"train": str(rows)}
    stop_before(3, recipe)
    rows.write_text(rows.read_text(encoding="utf-8").replace("Paris", "paris"), encoding="utf-8")
    with pytest.raises(UserError, match=r"data.train: other rows than those that .*step-2 was trained on"):
        resume(recipe)


def test_another_machine_is_said_aloud(recipes, stopped):
    path = stopped / "checkpoints" / "step-4"
    state = json.loads((path / "state.json").read_text())
    state["about"] |= {"torch": "2.0.0", "threads": 64}
    (path / "state.json").write_text(json.dumps(state))
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"state.json": checkpoint._sum(path / "state.json")}))
    _, said = resume(recipes(stopped))
    assert "2.0.0 when step-4 was written: the result may differ in the last bits" in said
    assert "threads 1 now, 64 when step-4 was written" in said
