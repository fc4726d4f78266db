# SPDX-License-Identifier: Apache-2.0
"""Runs of an encoder-decoder: rows in, a folder that transformers and PEFT load out; resumed, merged, asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.pairs import T5, save_words
from tests.runs import Command, bits, metrics, stop_before, tree
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

import luthier
from luthier.cohort import Asked, train_together
from luthier.core.errors import ModelError
from luthier.export.merge import merge_run
from luthier.models.generate import generate
from luthier.recipe import load_recipe
from luthier.run import RunResult, load, train

pytestmark = pytest.mark.filterwarnings("ignore")

NUMBERS = "one two three four five six seven eight nine".split()
RECIPE = Path(__file__).parents[2] / "recipes" / "seq2seq.yaml"
REAL = "shared/data/seq2seq/scitldr_a_train400.jsonl"  # beside the project, where it is at all
SCITLDR = next((above / REAL for above in Path(__file__).parents if (above / REAL).exists()), None)


def rows_of(many: int, first: int = 0) -> list[dict[str, str]]:
    """Count on: the target is the number after each of the source."""
    found = []
    for number in range(first, first + many):
        start, length = number % 5, 2 + number % 3
        some = [NUMBERS[(start + place) % 8] for place in range(length)]
        after = [NUMBERS[NUMBERS.index(word) + 1] for word in some]
        found.append({"source": "count " + " ".join(some), "target": " ".join(after)})
    return found


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random T5 with dropout, and a tokenizer of the words."""
    folder = tmp_path_factory.mktemp("t5")
    words = save_words(folder, ["count " + " ".join(NUMBERS)] * 2)
    torch.manual_seed(0)
    config = AutoConfig.for_model("t5", **(T5 | {"vocab_size": words, "dropout_rate": 0.1}))
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    return folder


def recipe(base: Path, rows: Path, output: Path, **sections: Any) -> dict[str, Any]:
    made = tree(base, rows, output, **sections)
    made["model"] |= {"task_type": "SEQ_2_SEQ_LM"}
    return made


@pytest.fixture(scope="module")
def adapted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished LoRA run with an evaluation."""
    folder = tmp_path_factory.mktemp("adapted")
    data = {"eval": str(write(folder / "eval.jsonl", rows_of(8, 30)))}
    train(recipe(base, write(folder / "rows.jsonl", rows_of(24)), folder / "run", data=data))
    return folder / "run"


def test_it_learns_to_count(base: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", rows_of(30))
    small = {"max_steps": 80, "per_device_train_batch_size": 10, "gradient_accumulation_steps": 1}
    method, optim = {"name": "full"}, {"learning_rate": 1e-2}
    result = train(recipe(base, rows, tmp_path / "run", method=method, optim=optim, train=small))
    assert result.summary["final_loss"] < 0.6
    assert 0 <= result.summary["padding_share"] < 0.1
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run" / "model")
    words = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    asked, wanted = [row["source"] for row in rows_of(15)], [row["target"] for row in rows_of(15)]
    replies = generate(again, words, asked, max_new_tokens=8)
    assert sum(map(str.__eq__, replies, wanted)) >= 9
    ids = words(asked[0], return_tensors="pt").input_ids
    plain = words.decode(again.generate(ids, max_new_tokens=8, num_beams=1)[0], skip_special_tokens=True)
    assert plain == replies[0]


def test_an_adapter_loads_in_peft_and_merges_with_a_proof(adapted: Path, base: Path) -> None:
    peft = pytest.importorskip("peft")
    model, words = load(adapted)
    theirs = peft.PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(base), adapted / "adapter")
    source, target = (words(text, return_tensors="pt").input_ids for text in ("count one two", "two three"))
    with torch.no_grad():
        here, there = (one.eval()(input_ids=source, labels=target).logits for one in (model, theirs))
    assert (here - there).abs().max() <= 1e-5
    done = merge_run(adapted)
    assert done.proof.holds
    assert done.proof.rows == "data.eval of the run"
    assert done.proof.mean_kl < 1e-9 < done.proof.adapter_kl
    merged = AutoModelForSeq2SeqLM.from_pretrained(done.folder)
    with torch.no_grad():
        assert (merged(input_ids=source, labels=target).logits - here).abs().max() <= 1e-4
    assert luthier.load(done.folder)[0].config.is_encoder_decoder


def test_it_is_asked_and_judged(adapted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = Command(capsys)
    rows = write(tmp_path / "dev.jsonl", [row | {"target": [row["target"], "nine"]} for row in rows_of(6)])
    said = command("evaluate", adapted, "--data", rows, "--json")
    (found,) = json.loads(said.out)["evaluation"].values()
    assert (found["metric"], found["items"]) == ("rouge_l", 6)
    assert found["metrics"].keys() == {"rouge_l", "bleu", "exact_match"}
    sources = [row["source"] for row in rows_of(2)]
    predicted = json.loads(command("predict", adapted, *sources, "--json").out)["predictions"]
    asked = [word for source in sources for word in ("--prompt", source)]
    replies = json.loads(command("generate", adapted, *asked, "--max-new-tokens", 128, "--json").out)["replies"]
    assert [row["target"] for row in predicted] == [row["reply"] for row in replies]


def test_a_stopped_run_goes_on_to_the_same_bits(base: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", rows_of(24))
    made = {name: recipe(base, rows, tmp_path / name, train={"save_steps": 2}) for name in ("whole", "stopped")}
    train(made["whole"])
    stop_before(3, made["stopped"])
    train(made["stopped"], resume=True)
    assert bits(tmp_path / "stopped") == bits(tmp_path / "whole")


def test_runs_on_one_base_are_what_each_is_alone(base: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", rows_of(24))
    made = [recipe(base, rows, tmp_path / name, seed=seed) for name, seed in (("one", 1), ("two", 2), ("alone", 2))]
    train(made[2])
    results = dict(train_together([Asked(resolved=load_recipe(one)) for one in made[:2]]))
    assert all(isinstance(result, RunResult) for result in results.values()), results
    assert bits(tmp_path / "two") == bits(tmp_path / "alone")


def test_a_task_that_nobody_named_is_told(base: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", rows_of(8))
    with pytest.raises(ModelError, match=r"set model\.task_type to SEQ_2_SEQ_LM"):
        train(tree(base, rows, tmp_path / "run"))


def test_the_shipped_recipe_runs(base: Path, tmp_path: Path) -> None:
    small = [f"model.model_name_or_path={base}", "model.dtype=float32", "data.eval=[]", f"output_dir={tmp_path}/run"]
    small += ["train.max_steps=2", "train.per_device_train_batch_size=2", "method.r=4"]
    result = train(load_recipe(RECIPE, small))
    assert result.summary["steps"] == 2
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.skipif(SCITLDR is None, reason="the data set is not here")
def test_real_rows_run(base: Path, tmp_path: Path) -> None:
    data = {"train": [{"path": str(SCITLDR), "max_rows": 12}], "max_length": 64}
    result = train(recipe(base, SCITLDR, tmp_path / "run", data=data))
    assert result.summary["steps"] == 4
    assert metrics(tmp_path / "run")[-1].keys() >= {"loss", "tokens"}


def test_variants_are_scored_by_what_they_write(base: Path, tmp_path: Path) -> None:
    rows = str(write(tmp_path / "rows.jsonl", rows_of(12)))
    one = recipe(base, Path(rows), tmp_path / "unused", train={"max_steps": 1})
    study = {"base": {key: one[key] for key in ("model", "data", "train")}, "evaluate": rows}
    result = luthier.compare(study | {"variants": {"r4": {"method.r": 4}}, "output_dir": str(tmp_path / "study")})
    assert result.variants == ["base", "r4"]
    found = {run.variant: run.summary["evaluation"]["rows"] for run in result.runs}
    assert {one["metric"] for one in found.values()} == {"rouge_l"}
    assert result.score("base").value == pytest.approx(found["base"]["value"], abs=1e-9)
