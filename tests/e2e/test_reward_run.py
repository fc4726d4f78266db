# SPDX-License-Identifier: Apache-2.0
"""A reward run: its values survive the folder, the merge and a restart, and it does not talk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.runs import tree

import luthier
from luthier.core.errors import ModelError
from luthier.evaluate import evaluate, load_suite
from luthier.export.merge import merge_run
from luthier.models.generate import generate
from luthier.models.values import score_texts

pytestmark = pytest.mark.e2e
CHATS = [[{"role": "user", "content": "Capital of Peru?"}, {"role": "assistant", "content": a}] for a in ("Lima", "No")]


@pytest.fixture
def recipe(tiny_llama: Path, tmp_path: Path) -> Any:
    rows = tmp_path / "pairs.jsonl"
    pairs = [{"prompt": f"What is {n} plus 1?", "chosen": f"It is {n + 1}.", "rejected": "No idea."} for n in range(40)]
    rows.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")

    def make(method: str, **sections: Any) -> dict[str, Any]:
        told = {"method": {"name": method}, "objective": {"name": "reward"}, "train": {"max_steps": 12}}
        told |= {"optim": {"learning_rate": 2e-3}} | sections
        return tree(tiny_llama, rows, tmp_path / method, **told)

    return make


@pytest.mark.parametrize("method", ["lora", "full"])
def test_values_survive(recipe: Any, method: str) -> None:
    said: list[str] = []
    done = luthier.train(recipe(method), say=said.append)
    assert any("a head of values (1, 64) is drawn from seed 42" in line for line in said)
    assert done.summary["final_loss"] < 0.5, "log 2 is chance"
    values = score_texts(done.model, done.tokenizer, CHATS)
    model, tokenizer = luthier.load(done.folder)
    assert score_texts(model, tokenizer, CHATS) == pytest.approx(values, abs=1e-5)
    again = luthier.train(recipe(method), resume=True)
    assert score_texts(again.model, again.tokenizer, CHATS) == pytest.approx(values, abs=1e-5)
    if method == "lora":
        merged = merge_run(done.folder)
        assert merged.proof.rows.startswith("data.train of the run")
        assert score_texts(*luthier.load(merged.folder, "float32"), CHATS) == pytest.approx(values, abs=1e-4)
    with pytest.raises(ModelError, match="its head gives values, not words"):
        generate(model, tokenizer, ["Hello"])
    with pytest.raises(ModelError, match="its head gives values, not words"):
        evaluate(model, tokenizer, load_suite("embedded", 2))


def test_a_reward_model_goes_on_but_learns_no_words(recipe: Any, alpaca_file: Path, tmp_path: Path) -> None:
    first = luthier.train(recipe("full", train={"max_steps": 1}))
    saved = str(first.folder / "model")
    said: list[str] = []
    on = recipe("lora", model={"model_name_or_path": saved, "dtype": "float32"}, train={"max_steps": 1})
    luthier.train(on, say=said.append)
    assert not any("is drawn from seed" in line for line in said)
    with pytest.raises(ModelError, match="a reward model: its head gives values instead of words"):
        luthier.train(tree(Path(saved), alpaca_file, tmp_path / "words"))
