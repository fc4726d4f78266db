# SPDX-License-Identifier: Apache-2.0
"""Plans on paper beside published times: BELLE's hours for an epoch, and the rsLoRA article's two runs.

    python benchmarks/plan_published.py --belle shared/data/belle/dev1K_first800.jsonl --tokenizer tinyllama/

Nothing runs: models are configurations, rows a number of them and a mean length. BELLE (arXiv 18 Apr 2023, table 4): 8
A100-40GB, LoRA of rank 8 on all linears in batches of 128, full fine-tuning in batches of 32, at most 1,024 tokens. The
article (2024-02-20): DPO of a Mistral 7B on UltraFeedback, LoRA on q, k, o, up and gate, r 16 and r 256, 8 A100-40GB
with ZeRO-3, checkpointing, 12 pairs a device. Two times are given of each: of the real tokens (no padding), and of rows
padded to 1,024. What published trainers lost to small micro-batches, links and ZeRO's traffic is in neither.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, LlamaConfig, MistralConfig

from luthier.planning.case import Case, counts_of
from luthier.planning.layers import Layers
from luthier.planning.machines import named
from luthier.planning.speed import counted_speed
from luthier.planning.work import Work
from luthier.recipe import load_recipe

LLAMA_7B = LlamaConfig()
LLAMA_13B = LlamaConfig(hidden_size=5120, intermediate_size=13_824, num_hidden_layers=40, num_attention_heads=40)
MISTRAL_7B = MistralConfig()
EIGHT = "8xA100-40GB"
LORA = {"name": "lora", "r": 8, "target_modules": "all-linear"}
# Published: model, method, rows, hours of an epoch.
BELLE: tuple[tuple[str, str, int, float], ...] = (
    ("13B", "lora", 2_000_000, 10),
    ("7B", "lora", 4_000_000, 14),
    ("7B", "lora", 2_000_000, 7),
    ("7B", "lora", 600_000, 5),
    ("7B", "full", 2_000_000, 31),
    ("7B", "full", 600_000, 17),
    ("7B", "lora", 250_000, 2),
    ("7B", "full", 250_000, 4),
)
PAIRS, BRANCH = 61_135, 450  # UltraFeedback's pairs; tokens of a prompt with one reply: assumed
ARTICLE = (("LoRA r 16", 16, 2 * 3600 + 6 * 60 + 45), ("rsLoRA r 256", 256, 2 * 3600 + 19 * 60 + 22))
LONGEST = 1024


def mean_tokens(file: Path, tokenizer: Path) -> tuple[float, float]:
    """Mean tokens of BELLE's rows (of a sample), and of their answers."""
    words = AutoTokenizer.from_pretrained(str(tokenizer))
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    answers = [min(LONGEST, len(words(row["output"])["input_ids"])) for row in rows]
    whole = [len(words(row["instruction"] + row.get("input", ""))["input_ids"]) for row in rows]
    both = [min(LONGEST, one + other) for one, other in zip(whole, answers, strict=True)]
    return sum(both) / len(both), sum(answers) / len(answers)


def case_of(config: Any, method: dict[str, Any], scratch: Path, work: Work) -> Case:
    """A case from a configuration and the rows' numbers."""
    config.save_pretrained(scratch)
    tree = {"model": {"model_name_or_path": str(scratch), "dtype": "bfloat16"}, "data": {"train": "-"}}
    recipe = load_recipe(tree | {"method": method}).recipe
    counts = counts_of(recipe, "bfloat16", None)
    return Case(recipe=recipe, counts=counts, work=work, machine=named(EIGHT), dtype="bfloat16")


def work_of(rows: int, tokens: float, scored: float, batch: int, micro: int) -> Work:
    """An epoch of rows of one mean length."""
    steps = -(-rows // batch)
    return Work(
        tokens=round(micro * tokens),
        scored=round(micro * scored),
        mean=micro * tokens,
        micro_batches=max(1, batch // 8 // micro),
        steps=steps,
        all_tokens=round(rows * tokens),
        all_scored=round(rows * scored),
        all_pairs=round(rows * tokens * (tokens + 1) / 2),
        passes=-(-rows // micro),
    )


def seconds_of(case: Case, *, recomputed: bool, forwards: int = 0) -> float:
    """Of the epoch, with so many passes of a reference besides; ZeRO-3's own traffic is left out."""
    layers = Layers(of=case.counts.layers, recomputed=case.counts.layers if recomputed else 0)
    found = counted_speed(case.counts, case.work, case.need(layers), case.machine, case.dtype, layers)
    ahead = 2.0 * case.counts.parameters * case.work.all_tokens * forwards
    return found.seconds + ahead / (case.machine.count * case.machine.peak("bfloat16") * case.machine.utilisation)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--belle", type=Path, required=True, help="some of BELLE's rows: their mean length is taken")
    parser.add_argument("--tokenizer", type=Path, required=True, help="LLaMA's tokenizer")
    args = parser.parse_args()
    tokens, scored = mean_tokens(args.belle, args.tokenizer)
    print(f"BELLE: {tokens:.0f} tokens a row in the mean ({scored:.0f} of them answers), in LLaMA's tokens")
    print(f"{'model':6}{'method':8}{'rows':>11}{'hours':>8}{'planned':>9}{'ratio':>7}{'padded':>9}{'ratio':>7}")
    told: dict[tuple[str, str, int], tuple[float, float]] = {}
    cases: dict[tuple[str, str], Case] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for size, method, rows, hours in BELLE:
            batch, micro = (128, 4) if method == "lora" else (32, 4)
            work = work_of(rows, tokens, scored, batch, micro)
            if (size, method) not in cases:
                config = LLAMA_7B if size == "7B" else LLAMA_13B
                keys = LORA if method == "lora" else {"name": "full"}
                cases[size, method] = case_of(config, keys, Path(scratch), work)
            case = replace(cases[size, method], work=work)
            padded = replace(case, work=work_of(rows, LONGEST, scored, batch, micro))
            plain, long = (seconds_of(one, recomputed=method == "full") / 3600 for one in (case, padded))
            told[size, method, rows] = plain, hours
            ratios = f"{plain:9.1f}{plain / hours:7.2f}{long:9.1f}{long / hours:7.2f}"
            print(f"{size:6}{method:8}{rows:11,}{hours:8.0f}{ratios}")
        for rows in (2_000_000, 600_000, 250_000):
            full, lora = told["7B", "full", rows], told["7B", "lora", rows]
            print(f"full / LoRA, {rows:,} rows: published {full[1] / lora[1]:.2f}, planned {full[0] / lora[0]:.2f}")
        sizes = told["13B", "lora", 2_000_000], told["7B", "lora", 2_000_000]
        print(f"13B / 7B: published {sizes[0][1] / sizes[1][1]:.2f}, planned {sizes[0][0] / sizes[1][0]:.2f}")
        print(f"\nrsLoRA article: {PAIRS:,} pairs, {BRANCH} tokens of prompt and reply assumed")
        both = []
        for name, r, seconds in ARTICLE:
            method = {"name": "lora", "r": r, "target_modules": ["q_proj", "k_proj", "o_proj", "up_proj", "gate_proj"]}
            work = work_of(2 * PAIRS, BRANCH, BRANCH / 2, 2 * 96, 24)
            case = case_of(MISTRAL_7B, method, Path(scratch), work)
            found = seconds_of(case, recomputed=True, forwards=1)
            both.append((seconds, found))
            print(f"{name:14} published {clock(seconds)}, planned {clock(found)} (ratio {found / seconds:.2f})")
        print(f"r 256 / r 16: published {both[1][0] / both[0][0]:.3f}, planned {both[1][1] / both[0][1]:.3f}")


def clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    Example:
        >>> clock(7605)
        '2:06:45'
    """
    return f"{int(seconds) // 3600}:{int(seconds) % 3600 // 60:02}:{int(seconds) % 60:02}"


if __name__ == "__main__":
    main()
