# SPDX-License-Identifier: Apache-2.0
"""Files and tokenizers as they are published, where they lie beside the checkout; the other tests need none of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.data.encoders import bert, t5

from luthier.core.errors import DataError
from luthier.data import prepare
from luthier.data.originals import originals
from luthier.data.pack import best_fit, fill
from luthier.recipe.schema import Data

HERE = Path(__file__)
SHARED = next((folder / "shared" for folder in HERE.parents[3:] if (folder / "shared" / "data").is_dir()), HERE)
DATA, TOKENIZERS = SHARED / "data", SHARED / "models" / "tokenizers"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no published files beside the checkout")


def test_alpaca_fills_its_bins(prepared):
    if not (TOKENIZERS / "gpt2").is_dir():
        pytest.skip("no such tokenizer beside the checkout")
    from transformers import AutoTokenizer

    gpt2 = AutoTokenizer.from_pretrained(TOKENIZERS / "gpt2")
    found = prepared(str(DATA / "llama-factory" / "alpaca_en_demo.json"), gpt2, chat_template="zephyr")
    assert found.ledger.to_json()["total"]["refused"] == 0
    lengths = found.rows.lengths
    assert fill(lengths, best_fit(lengths, 1024), 1024) > 0.97  # 0.994 measured


@pytest.mark.parametrize(
    ("path", "rows", "format_"),
    [
        ("belle/dev1K_first800.jsonl", 800, "alpaca"),
        ("sharegpt/dummy_conversation.json", 500, "sharegpt"),
        ("messages/openai_sft.jsonl", 128, "messages"),
        ("llama-factory/v1_sft_demo.jsonl", 500, "messages"),
        ("oasst/prompt_lottery_en_250_text.jsonl", 250, "text"),
        ("p3-templates/quarel_choose_between.jsonl", 90, "prompt_completion"),
    ],
)
def test_published_files_are_read_whole(qwen, prepared, path, rows, format_):
    account = prepared([{"path": str(DATA / path), "max_rows": rows}], qwen, max_length=4096).ledger.accounts[0]
    assert (account.read, account.kept, account.format) == (rows, rows, format_)


def test_tool_calls_are_refused_and_counted(qwen, prepared):
    file = str(DATA / "llama-factory" / "glaive_toolcall_en_demo.json")
    with pytest.raises(DataError, match=r"were refused[\s\S]*: turns of tools are not supported: rows 1, 4, 8"):
        prepared([{"path": file, "max_rows": 40}], qwen)


# the first rows, examples that are kept, their answers, and why others are refused
JUDGED = [
    ("hh-rlhf/harmless_base_test_first1200.jsonl", "preference", 120, 119, 238, {"empty answer": 1}),
    ("llama-factory/dpo_en_demo.json", "preference", 120, 120, 240, {}),
    ("llama-factory/dpo_zh_demo.json", "preference", 120, 120, 240, {}),
    ("llama-factory/v1_dpo_demo.jsonl", "preference", 10, 10, 20, {}),
    ("llama-factory/kto_en_demo.json", "unpaired", 120, 120, 120, {}),
    ("oasst/en_tree_first55.jsonl", "oasst", 55, 108, 330, {}),
    ("preference/alpaca_eval_alpaca7b_nc.json", "comparison", 240, 237, 474, {"a tie": 3}),
    ("preference/pandalm_testset_first560.json", "comparison", 240, 190, 380, {"a tie": 41}),
    ("preference/stack_exchange_paired_tiny.json", "preference", 25, 25, 50, {}),
    ("preference/taskmaster3_reward_260.json", "unpaired", 120, 120, 120, {}),
]


@pytest.mark.parametrize(("path", "format_", "rows", "kept", "answers", "refused"), JUDGED, ids=[x[0] for x in JUDGED])
def test_published_judgments(qwen, prepared, path, format_, rows, kept, answers, refused):
    found = prepared([{"path": str(DATA / path), "max_rows": rows}], qwen, max_length=32768, refused_tolerance=0.5)
    account = found.ledger.accounts[0]
    told = {reason: refusal.count for reason, refusal in account.refused.items()}
    assert (account.format, account.rows, account.kept, account.answers) == (format_, rows, kept, answers)
    assert refused.items() <= told.items()
    assert account.read == account.kept + account.refused_rows
    tree = found.rows.tree(len(found.rows) - 1)
    assert [segment.scored.any() for segment in tree.segments] == [False, *[True] * (len(tree.segments) - 1)]


# rows that are read and not written, and how many of them are kept
READ = [
    ("seqcls/sst2_train.csv", "labelled", {}, 6920, 6920),
    ("seqcls/sst2_dev.csv", "labelled", {}, 872, 872),
    ("seqcls/banking77_train.csv", "labelled", {}, 10003, 10003),
    ("ner/wnut17_train.conll", "tagged", {}, 3394, 3394),
    ("ner/wnut17_dev.conll", "tagged", {}, 1009, 1009),
    ("qa/xquad.en.json", "question", {}, 1190, 1190),
    ("qa/cmrc2018_trial.json", "question", {}, 1002, 995),
    ("sts/stsb_en_dev.csv", "texts", {"sentence1": 0, "sentence2": 1, "score": 2}, 1500, 1500),
    ("sts/stsb_en_train_2500.csv", "texts", {"sentence1": 0, "sentence2": 1, "score": 2}, 2500, 2500),
    ("sts/stsb_zh_train_1000.csv", "labelled", {"text": 0, "pair": 1, "labels": 2}, 1000, 1000),
]
SOURCES = [
    ("seq2seq/scitldr_a_train400.jsonl", {}, 400),
    ("seq2seq/scitldr_a_dev120.jsonl", {}, 120),
    ("seq2seq/tatoeba_en_zh_4500.tsv", {"source": 0, "target": 1}, 4500),
]


@pytest.mark.parametrize(("path", "kind", "columns", "rows", "kept"), READ, ids=[x[0] for x in READ])
def test_published_rows_that_are_read(path, kind, columns, rows, kept):
    data = Data(train=[{"path": str(DATA / path), "columns": columns}], max_length=512, doc_stride=64)
    found = prepare(data, bert(), which="train", kind=kind)
    account = found.ledger.accounts[0]
    assert (account.read, account.kept) == (rows, kept)
    assert account.kept + account.refused_rows == account.read
    assert len(found.rows) == account.windows


@pytest.mark.parametrize(("path", "columns", "rows"), SOURCES, ids=[x[0] for x in SOURCES])
def test_published_sources_and_targets(path, columns, rows):
    data = Data(train=[{"path": str(DATA / path), "columns": columns}], max_length=2048)
    found = prepare(data, t5(), which="train", kind="plain", task="SEQ_2_SEQ_LM")
    assert found.ledger.accounts[0].kept == rows
    references = [original.references for original in originals(found)]
    assert (max(map(len, references)) > 1) is ("dev" in path)
