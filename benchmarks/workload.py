# SPDX-License-Identifier: Apache-2.0
"""The work that both sides of a benchmark do: a Llama of about 25 M parameters and alpaca rows, made from nothing.

Rows come from `--rows FILE` (alpaca JSON) where one is given, else from the rows that ship with Luthier, with
lengths drawn to match the alpaca set (mean 230 tokens, 6 % over 512).
"""

from __future__ import annotations

import json
import random
from pathlib import Path

VOCABULARY = 8192
TEMPLATE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}{input}\n\n### Response:\n"
)
SHAPES = {
    "m25": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 6},
    "m110": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12},
}


def read_rows(path: Path | None, count: int = 1000) -> list[dict[str, str]]:
    """Prompt and completion of each row, in the Alpaca template."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path else _built_in(count)
    return [
        {
            "prompt": TEMPLATE.format(
                instruction=row["instruction"], input=f"\n\n### Input:\n{row['input']}" if row.get("input") else ""
            ),
            "completion": row["output"],
        }
        for row in rows[:count]
        if row["output"].strip()
    ]


def _built_in(count: int) -> list[dict[str, str]]:
    """Answers of the shipped rows strung together until their length fits the alpaca set's (log-normal)."""
    import luthier

    sets = Path(luthier.__file__).parent / "models" / "embedded" / "sets" / "train.jsonl"
    source = [json.loads(line) for line in sets.read_text(encoding="utf-8").splitlines()]
    draw = random.Random(0)
    rows = []
    for _ in range(count):
        first = draw.choice(source)
        words, wanted = first["output"].split(), draw.lognormvariate(4.6, 0.8)
        while len(words) < wanted:
            more = draw.choice(source)
            words += f"{more['instruction']} {more['output']}".split()
        rows.append({"instruction": first["instruction"], "input": first["input"], "output": " ".join(words)})
    return rows


def make_model(folder: Path, rows: list[dict[str, str]], shape: str = "m25") -> Path:
    """A random Llama with a byte-level BPE trained on the rows; the same weights every time."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((r["prompt"] + r["completion"] for r in rows), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    size = SHAPES[shape]
    config = LlamaConfig(
        **size,
        num_key_value_heads=size["num_attention_heads"],
        vocab_size=VOCABULARY,
        max_position_embeddings=1024,
        eos_token_id=0,
        bos_token_id=0,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    """Rows as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
