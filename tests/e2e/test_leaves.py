# SPDX-License-Identifier: Apache-2.0
"""What was trained is used: served, a student and a judge over the server, evaluated, written as GGUF and read back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.runs import Command, recipe_file, tree

import luthier
from luthier.judge import bench as benches
from luthier.models.backbone import serving
from luthier.models.generate import generate

pytest.importorskip("openai")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
gguf = pytest.importorskip("gguf")
pytestmark = pytest.mark.e2e

QUESTIONS = ["Name a colour.", "Say a word of the text: red sun."]
REDS = "extraction"  # its answers are not drawn


def _bench(folder: Path) -> Path:
    """Two questions of two turns, and the shipped prompts."""
    folder.mkdir()
    shutil.copy(Path(benches.__file__).parent / "own" / "judge_prompts.jsonl", folder)
    rows = [{"question_id": n, "category": REDS, "turns": [one, "And another."]} for n, one in enumerate(QUESTIONS, 1)]
    (folder / "question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def _turns(file: str) -> list[list[str]]:
    return [json.loads(line)["choices"][0]["turns"] for line in Path(file).read_text(encoding="utf-8").splitlines()]


def _longer(model: Path, folder: Path) -> Path:
    """The tiny model with room for a judge's prompts."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    return folder


def test_from_training_to_every_use(tiny_llama, alpaca_file, tmp_path, capsys, monkeypatch):
    from tests.serving import running

    from luthier.serve.shelf import Room, Shelf

    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-nobody")
    command, run, bench = Command(capsys), tmp_path / "run", _bench(tmp_path / "bench")
    made = tree(_longer(tiny_llama, tmp_path / "base"), alpaca_file, run, optim={"learning_rate": 0.02})
    said = command("train", recipe_file(tmp_path, made), "--quiet")
    assert said.code == 0, said.err
    words = ["--bench", bench, "--json"]
    asked = ["judge", "answers", *words, "--max-new-tokens", 6]
    said = command(*asked, f"here={run}")
    assert said.code == 0, said.err
    here = _turns(json.loads(said.out)["answers"]["here"])
    shelf = Shelf([f"mine={run}"], Room(places=4, queue=32), "float32")
    with running(shelf, seconds=60) as server:
        place = ["--base-url", f"{server.url}/v1"]
        said = command(*asked, "mine", *place)
        assert said.code == 0, said.err
        assert _turns(json.loads(said.out)["answers"]["mine"]) == here  # the same words behind a server
        short = ["--parameter", "max_tokens=8", "--yes"]
        said = command("judge", "here", "mine", *words, "--model", "mine", *place, *short)
        assert said.code == 0, said.err
        judged = json.loads(said.out)
        assert (judged["judged"], judged["failed"]) == (8, [])
        assert judged["tokens_out"] > 0
        said = command(*asked, "nobody", *place, "--attempts", 1)
        assert said.code == 1
        assert "model nobody: the endpoint knows no such model" in said.err
    rows = [json.loads(line) for line in Path(judged["file"]).read_text(encoding="utf-8").splitlines()]
    assert {row["model"] for row in rows} == {"here", "mine"}
    by_model = {name: [row["judgment"] for row in rows if row["model"] == name] for name in ("here", "mine")}
    assert by_model["here"] == by_model["mine"]  # one judge, equal answers
    assert judged["without_rating"] == 8  # four steps make no judge; what it said is filed, and in no mean
    assert json.loads(command("judge", "--table", bench, "--json").out)["models"] == {}
    _evaluated_and_exported(command, run, tmp_path)


def _evaluated_and_exported(command: Command, run: Path, tmp_path: Path) -> None:
    suite = tmp_path / "mine.jsonl"
    suite.write_text("".join(json.dumps({"prompt": one, "answer": "red"}) + "\n" for one in QUESTIONS))
    said = command("evaluate", run, "--suite", suite, "--max-new-tokens", 6, "--output", tmp_path / "said", "--json")
    assert said.code == 0, said.err
    lines = (tmp_path / "said" / "predictions-mine.jsonl").read_text(encoding="utf-8").splitlines()
    said = command("export", run, "--to", "gguf", "dtype=f32", "--json")
    assert said.code == 0, said.err
    done = json.loads(said.out)
    assert done["proof"]["holds"] is True
    assert done["proof"]["adapter_kl"] > 1e-3
    from luthier.export.forms.gguf import read_again

    file = next(Path(done["folder"]).glob("*.gguf"))
    again, (trained, tokenizer) = read_again(file), luthier.load(run, "float32")
    replies = generate(trained, tokenizer, QUESTIONS, max_new_tokens=6)
    assert generate(again, tokenizer, QUESTIONS, max_new_tokens=6) == replies
    assert [json.loads(line)["reply"] for line in lines] == replies
    with serving(trained), torch.no_grad():
        ids = torch.arange(3, 40)[None]
        assert (again(input_ids=ids).logits - trained(input_ids=ids).logits).abs().max() <= 1e-4
