# SPDX-License-Identifier: Apache-2.0
"""`luthier data`, `luthier formats`, `luthier templates`."""

from __future__ import annotations

import json
import re
import shutil
import sys

import pytest

from luthier import models
from luthier.cli import main
from luthier.core import registry

ROWS = [{"instruction": f"What is {i} + 2?", "output": f"It is {i + 2}."} for i in range(20)]


@pytest.fixture
def luthier(run, monkeypatch, qwen):
    """Run a command with Qwen's tokenizer."""
    monkeypatch.setattr(models, "load_tokenizer", lambda *_, **__: qwen)
    return run


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command; return exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def _run(*words: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(list(words))
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return _run


@pytest.mark.parametrize(("command", "kind"), [("formats", "data.formats"), ("templates", "data.templates")])
def test_lists(luthier, command, kind):
    known = registry.entries(kind)
    code, out, _ = luthier(command)
    assert code == 0
    assert [re.split(r"  +", line) for line in out.splitlines()] == [list(pair) for pair in known.items()]
    told = json.loads(luthier(command, "--json")[1])
    assert {entry["name"]: entry["help"] for entry in told} == known


def test_rows_as_the_model_sees_them(luthier, write):
    code, out, err = luthier("data", write(*ROWS), "--rows", "2")
    assert code == 0, err
    assert "<|im_start|>user\nWhat is 0 + 2?<|im_end|>\n<|im_start|>assistant\n⟦It is 2.<|im_end|>⟧" in out
    assert "What is 2 + 2?" not in out
    assert "rows.jsonl:1: " in out
    assert re.search(r"packing: \d+ bins of 1024 tokens, \d", out)
    assert "format alpaca (instruction, output)" in err


PAIR = {
    "instruction": "What is 2 + 2?",
    "chosen": "It is 4.",
    "rejected": "No.",
    "score_chosen": 8,
    "score_rejected": 1.5,
}


def test_judged_rows_with_their_answers(luthier, write):
    code, out, err = luthier("data", write(PAIR))
    assert code == 0, err
    assert re.search(r"rows\.jsonl:1: \d+ tokens, \d+ scored, 2 answers", out)
    assert "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n" in out
    assert re.search(r"answer 1, grade 1, score 8, \d+ tokens: ⟦It is 4\.<\|im_end\|>⟧", out)
    assert re.search(r"answer 2, grade 0, score 1\.5, \d+ tokens: ⟦No\.<\|im_end\|>⟧", out)
    assert re.search(r"prompts: once for all answers: (\d+) tokens, (\d+) otherwise", out)
    assert "answers" in out
    assert "packing:" not in out


def test_judged_rows_as_json(luthier, write):
    told = json.loads(luthier("data", write(PAIR), "--json")[1])
    row = told["rows"][0]
    assert [run["scored"] for run in row["prompt"]["runs"]] == [False]
    answers = row["answers"]
    assert [(answer["grade"], answer["score"]) for answer in answers] == [(1.0, 8.0), (0.0, 1.5)]
    assert len(row["prompt"]["ids"]) + sum(len(answer["ids"]) for answer in answers) == row["tokens"]
    assert told["lengths"]["tokens_unshared"] - told["lengths"]["tokens"] == len(row["prompt"]["ids"])
    assert told["ledger"]["sources"][0]["answers"] == 2


def test_a_recipe_says_which_rows_it_takes(luthier, write):
    code, _, err = luthier("data", write(PAIR), "objective=sft")
    assert code == 2
    assert "chosen and rejected: are these rows for another objective? As preference they are for" in err


def test_json_is_one_document(luthier, write):
    code, out, _ = luthier("data", write(*ROWS), "data.max_length=64", "--json")
    told = json.loads(out)
    assert code == 0
    assert set(told) == {"rows", "ledger", "lengths"}
    assert told["lengths"]["max_length"] == 64
    row = told["rows"][0]
    assert sum(run["tokens"] for run in row["runs"]) == row["tokens"] == len(row["ids"])
    assert [run["text"] for run in row["runs"] if run["scored"]] == ["It is 2.<|im_end|>"]


@pytest.mark.parametrize("files", [["config.json"], []], ids=["no weights", "tokenizer only"])
def test_a_tokenizer_is_enough(run, write, tiny_llama, tmp_path, files):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", *files):
        shutil.copy(tiny_llama / name, model)
    code, out, err = run("data", write(*ROWS), "--model", str(model), "--rows", "1")
    assert code == 0, err
    assert "<|user|>\nWhat is 0 + 2?<|end|>\n<|assistant|>\n⟦It is 2.<|end|>⟧" in out
    (model / "tokenizer.json").unlink()
    code, _, err = run("data", write(*ROWS), "--model", str(model))
    assert code == 2
    assert f"error: {'tokenizer' if files else 'model'} {model}: " in err


def test_a_recipe(luthier, write, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"model": {"model_name_or_path": "x"}, "data": {"train": "no", "eval": write(*ROWS)}}))
    assert luthier("data", str(recipe), "--eval")[0] == 0
    code, out, err = luthier("data", str(recipe))
    assert (code, out) == (2, "")
    assert "error: no: no such file or folder" in err


def test_the_ledger_is_shown_before_the_tolerance_stops(luthier, write):
    code, out, err = luthier("data", write(*ROWS, {"instruction": "x", "output": ""}), "--rows", "0")
    assert code == 2
    assert "1 refused: empty answer (turn 2): row 21" in out
    assert "1 of 21 rows (4.8%) were refused" in err


def test_words_that_look_like_markup_are_left_alone(luthier, write):
    out = luthier("data", write({"instruction": "[bold]x[/bold]", "output": "[/] y"}))[1]
    assert "[bold]x[/bold]" in out
    assert "⟦[/] y<|im_end|>⟧" in out


def test_the_data_layer_does_not_need_torch():
    import subprocess

    script = "import sys, luthier.data.formats.alpaca as _; print(*{'torch', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
