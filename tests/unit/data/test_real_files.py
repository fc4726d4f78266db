# SPDX-License-Identifier: Apache-2.0
"""Files and tokenizers as they are published, where they lie beside the checkout; the other tests need none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.core.errors import DataError
from luthier.data.pack import best_fit, fill

SHARED = Path(__file__).parents[4] / "shared"
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
    account = prepared(str(DATA / path), qwen, max_length=4096).ledger.accounts[0]
    assert (account.read, account.kept, account.format) == (rows, rows, format_)


def test_tool_calls_are_refused_and_counted(qwen, prepared):
    file = str(DATA / "llama-factory" / "glaive_toolcall_en_demo.json")
    with pytest.raises(DataError, match=r"were refused[\s\S]*: turns of tools are not supported: rows 1, 4, 8"):
        prepared([{"path": file, "max_rows": 40}], qwen)
