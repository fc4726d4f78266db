# SPDX-License-Identifier: Apache-2.0
"""The card says what was trained on what, how it scored and what is known of licences, and names no machine's paths."""

from __future__ import annotations

import json

from luthier.export.merge import merge_run
from luthier.recipe.text import parse

ACCOUNT = {"source": "/data/secret/rows.jsonl", "format": "alpaca", "rows": 41, "kept": 40, "truncated": 2}
ACCOUNT |= {"tokens": 2000, "scored_tokens": 900, "refused": {"no answer": {"count": 1, "rows": ["train:3"]}}}
SCORES = {"arithmetic": {"exact": {"value": 0.625, "stderr": 0.05}}, "loss": {"loss": {"value": 1.5}}}


def card_of(bench, base, rows) -> tuple[dict, str]:
    run = bench.run(base, rows)
    (run / "ledger.json").write_text(json.dumps({"train": {"sources": [ACCOUNT]}}))
    summary = {"steps": 12, "scored_tokens": 3456, "trainable_parameters": 789, "evaluation": SCORES}
    (run / "summary.json").write_text(json.dumps(summary))
    text = (merge_run(run).folder / "README.md").read_text()
    return parse(text.split("---\n")[1]), text


def test_a_run(bench, tiny_llama, alpaca_file):
    front, text = card_of(bench, tiny_llama, alpaca_file)
    assert front == {"base_model": "tiny-llama", "library_name": "transformers", "tags": ["luthier"]}
    assert "`tiny-llama`, trained with method `lora` and objective `sft`" in text
    assert "| train | `rows.jsonl` | alpaca | 41 | 40 | 2 | 2,000 | 900 | 1 no answer |" in text
    assert "| arithmetic | exact | 0.625 | 0.05 |" in text
    assert "12 steps, 3,456 scored tokens, 789 trained parameters" in text
    assert "mean KL" in text
    assert "none was found beside `tiny-llama`" in text
    assert "/data/secret" not in text
    assert str(bench.folder) not in text


def test_the_bases_licence(bench):
    base = bench.base()
    (base / "README.md").write_text("---\nlicense: mit\n---\n\n# A base\n")
    text = (merge_run(bench.adapter(base)).folder / "README.md").read_text()
    assert parse(text.split("---\n")[1])["license"] == "mit"
    assert "says `mit`" in text


def test_a_licence_in_a_file_of_its_own(bench):
    base = bench.base()
    (base / "LICENSE").write_text("Do what you like.\n")
    text = (merge_run(bench.adapter(base)).folder / "README.md").read_text()
    assert parse(text.split("---\n")[1])["license"] == "other"
