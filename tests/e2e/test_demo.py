# SPDX-License-Identifier: Apache-2.0
"""`luthier demo`, `luthier compare` and `luthier evaluate` as a user types them, with a handful of steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import yaml

from luthier.cli import main

pytestmark = pytest.mark.e2e


def luthier(*words: str, cwd, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", "from luthier.cli import main; main()", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "COLUMNS": "140"},
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def inside(capsys, monkeypatch):
    """The same without a process of its own: five seconds less."""

    def run(*words: str, cwd, code: int = 0):
        monkeypatch.chdir(cwd)
        if not code:
            main(words)
        else:
            with pytest.raises(SystemExit) as stop:
                main(words)
            assert stop.value.code == code
        return capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, luthier("demo", "base.train.max_steps=3", "--items", "20", cwd=folder)


def test_the_demo_shows_table_conclusion_and_replies(demo):
    _, done = demo
    out = " ".join(done.stdout.split())
    for variant in ("base", "lora-r16", "lora-r64", "rslora-r16", "rslora-r64", "full"):
        assert variant in out
    assert "At the same alpha (16) and learning rate (0.001), with one seed, " in out
    assert "the gap between LoRA and rsLoRA shrank once the learning rate was tuned for each method" in out
    assert "One seed (0) was used" in out
    assert "before training and by" in out
    assert "items: 20 of embedded-first-20" in out
    assert "[5/5] full, seed 0" in done.stderr


def test_the_demo_writes_table_and_picture(demo):
    folder = demo[0] / "runs" / "demo"
    report = (folder / "report.md").read_text("utf-8")
    assert "](picture.svg)" in report
    assert "| lora-r16 |" in report
    assert "At the same alpha (16) and learning rate (0.001), " in report
    ElementTree.parse(folder / "picture.svg")
    runs = json.loads((folder / "results.json").read_text("utf-8"))
    assert [run["variant"] for run in runs] == ["base", "lora-r16", "lora-r64", "rslora-r16", "rslora-r64", "full"]
    assert len({run["tokens"] for run in runs[1:]}) == 1


def test_a_second_demo_uses_what_is_there(demo, inside):
    done = inside("demo", "base.train.max_steps=3", "--items", "20", "--json", cwd=demo[0])
    tree = json.loads(done.out)
    assert tree["controlled"]["text"].startswith("Controlled")
    assert len(tree["rows"]["embedded-first-20"]) == 6
    assert tree["conclusion"][0]["text"].startswith("At the same alpha (16)")
    assert done.err.count("(was done already)") == 6


def test_compare_runs_a_study_file(tmp_path, tiny_llama, alpaca_file, inside):
    suite = tmp_path / "mine.jsonl"
    suite.write_text('{"prompt": "1+1?", "answer": "2"}\n{"prompt": "Hi", "answer": "Hello"}\n', encoding="utf-8")
    study = {
        "base": {
            "model": {"model_name_or_path": str(tiny_llama)},
            "data": {"train": str(alpaca_file), "max_length": 128},
            "train": {"max_steps": 3, "per_device_train_batch_size": 1},
        },
        "variants": {"r4": {"method.r": 4}, "r8": {"method.r": 8}},
        "evaluate": ["mine.jsonl", {"perplexity": {"path": str(alpaca_file), "max_rows": 3}, "name": "answers"}],
        "output_dir": "out",
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    tree = json.loads(luthier("compare", "study.yaml", "seeds=[3]", "--json", cwd=tmp_path).stdout)
    assert [(run["variant"], run["seed"]) for run in tree["runs"]] == [("base", None), ("r4", 3), ("r8", 3)]
    assert (tmp_path / "out" / "picture.svg").is_file()
    told = [run["evaluation"]["answers"] for run in tree["runs"]]
    assert [(one["metric"], one["items"]) for one in told] == [("token_probability", 3)] * 3  # more is better
    wrong = inside("compare", "study.yaml", "varaints.r4=1", cwd=tmp_path, code=2)
    assert "did you mean 'variants'" in wrong.err
    run = inside("evaluate", "out/runs/r4/seed-3", "--suite", "mine.jsonl", "--output", "said", "--json", cwd=tmp_path)
    assert json.loads(run.out)["evaluation"]["mine"]["items"] == 2
    assert len((tmp_path / "said" / "predictions-mine.jsonl").read_text("utf-8").splitlines()) == 2


def test_evaluate_names_the_suites_that_there_are(tmp_path, inside):
    wrong = inside("evaluate", "embedded", "--suite", "embeded", cwd=tmp_path, code=2)
    assert "did you mean 'embedded'" in wrong.err


def test_models_are_compared_on_the_same_items(tmp_path, tiny_llama, inside):
    rows = [
        {"query": "the cat", "choices": ["sat", "ran away"], "gold": n % 2, "text": f"it was {n}"} for n in range(6)
    ]
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "choices.yaml").write_text("kind: multiple_choice\ndata: some.jsonl\n", encoding="utf-8")
    suites = ["--suite", "choices.yaml", "--suite", "{perplexity: {path: some.jsonl, format: text}, name: texts}"]
    run = inside("evaluate", str(tiny_llama), *suites, "--limit", "4", "--output", "first", "--json", cwd=tmp_path)
    told = json.loads(run.out)["evaluation"]
    assert {name: one["metric"] for name, one in told.items()} == {
        "choices-first-4": "acc",
        "texts-first-4": "perplexity",
    }
    run = inside("evaluate", "first", str(tiny_llama), *suites, "--limit", "4", "--json", cwd=tmp_path)
    told = json.loads(run.out)
    assert [one["model"] for one in told["results"]] == [str(tiny_llama)] * 2
    assert {row["difference"] for row in told["compared"]} == {0.0}
    wrong = inside("evaluate", "first", str(tiny_llama), *suites, "--limit", "3", cwd=tmp_path, code=2)
    assert "was not asked a suite" in wrong.err
