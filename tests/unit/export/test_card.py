# SPDX-License-Identifier: Apache-2.0
"""The card says what was trained on what, how it scored and what is known of licences, and names no machine's paths."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from luthier.export.markdown import code, flat, prose, table
from luthier.export.merge import merge_run
from luthier.export.trained import Request
from luthier.recipe.text import parse

ACCOUNT = {"source": "/data/secret/rows.jsonl", "format": "alpaca", "rows": 41, "kept": 40, "truncated": 2}
ACCOUNT |= {"tokens": 2000, "scored_tokens": 900, "refused": {"no answer": {"count": 1, "rows": ["train:3"]}}}
SCORES = {"arithmetic": {"exact": {"value": 0.625, "stderr": 0.05, "items": 94}}, "loss": {"loss": {"value": 1.5}}}
HOSTILE = "a|b`c\n## d\u202e<img src=x>\udce9"


def card_of(bench, base, rows, account=ACCOUNT, scores=SCORES, title="run") -> tuple[dict, str]:
    run = bench.run(base, rows)
    (run / "ledger.json").write_text(json.dumps({"train": {"sources": [account]}}))
    summary = {"steps": 12, "scored_tokens": 3456, "trainable_parameters": 789, "evaluation": scores}
    (run / "summary.json").write_text(json.dumps(summary))
    run = run.rename(run.with_name(title))
    text = (merge_run(run).folder / "README.md").read_text(encoding="utf-8")
    return parse(text.split("---\n")[1]), text


def test_a_run(bench, tiny_llama, alpaca_file):
    front, text = card_of(bench, tiny_llama, alpaca_file)
    assert front == {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["luthier", "lora"]}
    assert "`tiny-llama`, trained with method `lora` and objective `sft`" in text
    assert "model = AutoModelForCausalLM.from_pretrained(" in text
    assert "name: lora, r: 16, target_modules: all-linear" in text
    assert "lora_alpha: 16.0" in text
    assert "data: {loss_on: assistant, max_length: 1024, packing: true, truncation: right}" in text
    assert "| train | `rows.jsonl` | alpaca | 41 | 40 | 2 | 2,000 | 900 | 1 no answer |" in text
    assert "| arithmetic | exact | 0.625 | 0.05 | 94 |" in text
    assert "12 steps, 3,456 scored tokens, 789 trained parameters" in text
    assert "mean KL" in text
    assert "none was found beside `tiny-llama`" in text
    assert "/data/secret" not in text
    assert str(bench.folder) not in text


def test_hostile_names_stay_where_they_stand(bench, tiny_llama, alpaca_file):
    """Of a file, a suite and a reason: a table keeps its columns, a section its place, HTML its brackets as text."""
    reasons = {f"{HOSTILE} {n}": {"count": n, "rows": []} for n in range(1, 10)}
    account = ACCOUNT | {"source": f"/data/{HOSTILE}.jsonl", "refused": reasons}
    scores = {HOSTILE: {HOSTILE: {"value": 1.0}}}
    _, text = card_of(bench, tiny_llama, alpaca_file, account, scores, "a`b\n# <i>")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in rows]
    assert columns == [10, 10, 6, 6]
    assert "6 for 3 other reasons |" in rows[1]
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert heads == [
        r"# a\`b \# \<i\>",
        *(f"## {head}" for head in ("Use", "Proof", "Training", "Data", "Scores", "Licences")),
    ]
    assert "\u202e" not in text
    assert "<img" not in re.sub(r"`` .*? ``|``.*?``|\\<", "", text)


@pytest.mark.parametrize("text", [HOSTILE, "`", "``` x", "", " a  b ", "x" * 999, "क्‍ष नाम", "_a_ *b*"])
def test_words_of_markdown(text):
    for shown in (flat(text), prose(text), code(text)):
        assert "\n" not in shown
        shown.encode("utf-8")
        assert len(shown) < 500
    assert table([["a"], [code(text)]]).count("\n") == 2
    fence = re.match("`+", code(text))[0]
    assert code(text).count(fence) == 2


def test_a_card_for_what_is_named_on_the_hub(bench, monkeypatch):
    adapter = bench.adapter(bench.base())
    config = json.loads((adapter / "adapter_config.json").read_text())
    base, config["base_model_name_or_path"] = config["base_model_name_or_path"], "team/base"
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    from luthier.export.forms import peft

    Path(base, "README.md").write_text("---\nlicense: Some Words\n---\n")
    Path(base, "LICENSE").write_text("Do what you like.\n")
    monkeypatch.setattr("luthier.export.card._place", lambda name: Path(base) if name == "team/base" else None)
    monkeypatch.setattr("luthier.export.origin.locate", lambda name, **words: base if name == "team/base" else name)
    monkeypatch.setattr("luthier.models.load.locate", lambda name, **words: base if name == "team/base" else name)
    folder = peft.write(Request(source=adapter, say=lambda _: None), peft.Config()).folder
    front = parse((text := (folder / "README.md").read_text()).split("---\n")[1])
    assert front["base_model"] == "team/base"
    assert (front["license"], front["library_name"]) == ("other", "peft")
    assert 'base = AutoModelForCausalLM.from_pretrained("team/base")' in text
    assert "says `Some Words`. Its LICENSE is in this folder." in text
    assert (folder / "LICENSE").read_text() == "Do what you like.\n"


def test_the_bases_licence(bench):
    base = bench.base()
    (base / "README.md").write_text("---\nlicense: mit\n---\n\n# A base\n")
    text = (merge_run(bench.adapter(base)).folder / "README.md").read_text()
    assert parse(text.split("---\n")[1])["license"] == "mit"
    assert "says `mit`" in text


def test_a_licence_in_a_file_of_its_own(bench):
    base = bench.base()
    (base / "LICENSE").write_text("Do what you like.\n")
    (base / "NOTICE").write_text("By somebody.\n")
    folder = merge_run(bench.adapter(base)).folder
    text = (folder / "README.md").read_text()
    assert parse(text.split("---\n")[1])["license"] == "other"
    assert "Its LICENSE and NOTICE are in this folder." in text
    assert (folder / "NOTICE").read_text() == "By somebody.\n"
