# SPDX-License-Identifier: Apache-2.0
"""A saved model stops, in transformers alone, where its training ended a turn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs import tree
from transformers import AutoModelForCausalLM, AutoTokenizer

import luthier
from luthier.export.merge import merge_run

OTHER = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|tool|>' }}{% endfor %}"
ASK = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"


@pytest.fixture
def trained(tiny_llama: Path, alpaca_file: Path, tmp_path: Path) -> Any:
    """Train one step with a template whose turns end with `<|tool|>`; the base's own end is `<|end|>`."""
    template = tmp_path / "other.jinja"
    template.write_text(OTHER + ASK)

    def train(method: str, chat_template: str = str(template), base: Path = tiny_llama) -> Path:
        data, steps = {"chat_template": chat_template}, {"max_steps": 1}
        recipe = tree(base, alpaca_file, tmp_path / "run", method={"name": method}, data=data, train=steps)
        return luthier.train(recipe).folder

    return train


def _ends(folder: Path) -> Any:
    return json.loads((folder / "generation_config.json").read_text())["eos_token_id"]


def _reply(folder: Path, token: str) -> int:
    """Tokens of a reply that is made to be `token` again and again."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    said = tokenizer.convert_tokens_to_ids(token)

    def force(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -1e9).index_fill_(1, torch.tensor([said]), 0.0)

    asked = torch.tensor([[7, 8, 9]])
    return int(model.generate(asked, max_new_tokens=5, do_sample=False, logits_processor=[force]).shape[1]) - 3


def test_the_whole_model(trained: Any, tiny_llama: Path) -> None:
    folder = trained("full") / "model"
    words = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids
    assert _ends(folder) == [words("<|end|>"), words("<|tool|>")]
    assert [_reply(folder, token) for token in ("<|tool|>", "<|end|>", "<|user|>")] == [1, 1, 5]
    assert _reply(tiny_llama, "<|tool|>") == 5


def test_a_merged_model(trained: Any) -> None:
    run = trained("lora")
    assert not (run / "adapter" / "generation_config.json").exists()
    folder = merge_run(run).folder
    words = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids
    assert _ends(folder) == [words("<|end|>"), words("<|tool|>")]


def test_ends_that_are_known_stay_as_they_are(trained: Any, tiny_llama: Path) -> None:
    assert _ends(trained("full", "auto") / "model") == _ends(tiny_llama)


def test_a_model_that_names_no_end(trained: Any, tiny_llama: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_llama, tmp_path / "base"))
    for file in (base / "config.json", base / "generation_config.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": None}))
    assert _ends(trained("full", "auto", base) / "model") == _ends(tiny_llama)
