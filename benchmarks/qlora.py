# SPDX-License-Identifier: Apache-2.0
"""QLoRA on a CPU: NF4 bases beside bfloat16 ones, and beside transformers' Trainer with PEFT and bitsandbytes.

    python benchmarks/qlora.py --rounds 5

As in `run.py`, every round runs each side once, in a process of its own, one thread each, in turn; ratios are taken
inside a round. Bars: 0.7 times the tokens per CPU second of bfloat16 LoRA, 1.5 times the peer's, and 0.30 times the
bytes of the bfloat16 linears.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from run import BEST, HERE, machine, one_side
from workload import make_model, read_rows, write_rows

NF4 = ["--quantization", "nf4"]
OURS, DENSE, PEER = "luthier nf4", "luthier bfloat16", "transformers Trainer + peft + bitsandbytes nf4 (best)"
SIDES = {
    OURS: ["ours_sft.py", *NF4],
    DENSE: ["ours_sft.py"],
    PEER: ["peer_sft.py", "--trainer", "hf", *BEST, *NF4],
}
BARS = {DENSE: 0.7, PEER: 1.5}
WEIGHTS = 0.30


def main() -> int:
    """Run the rounds, print the ratios, write the JSON; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--rows", type=Path, help="An alpaca JSON file; default: rows made from the shipped sets.")
    parser.add_argument("--shape", default="m25", choices=["m25", "m110"])
    parser.add_argument("--output", type=Path, default=HERE / "results" / "qlora_cpu.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = read_rows(args.rows)
        make_model(folder / "model", rows, args.shape)
        write_rows(folder / "rows.jsonl", rows)
        rounds = [one_round(folder, args, number) for number in range(args.rounds)]
    about = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "shape": args.shape}
    about["machine"]["versions"]["bitsandbytes"] = metadata.version("bitsandbytes")
    report = {"rounds": rounds, "ratios": ratios(rounds), **about, "rows": args.rows.name if args.rows else "built-in"}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    return show(report)


def one_round(folder: Path, args: argparse.Namespace, number: int) -> dict[str, Any]:
    """Each side once; the order turns with every round."""
    names = [*SIDES][number % len(SIDES) :] + [*SIDES][: number % len(SIDES)]
    found = {name: one_side(SIDES[name], folder, args) for name in names}
    line = "  ".join(f"{name.split(' (')[0]} {found[name]['tokens_per_cpu_second']:.0f}" for name in SIDES)
    print(f"round {number + 1}: {line} tokens/CPU s", file=sys.stderr, flush=True)
    return found


def ratios(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Luthier's NF4 over each other side, pair by pair inside a round, and the bytes of the base."""
    found: dict[str, Any] = {}
    for name, bar in BARS.items():
        speed = [r[OURS]["tokens_per_cpu_second"] / r[name]["tokens_per_cpu_second"] for r in rounds]
        memory = [r[OURS]["peak_rss_bytes"] / r[name]["peak_rss_bytes"] for r in rounds]
        found[name] = {"speed": median(speed), "min": min(speed), "max": max(speed), "bar": bar}
        found[name]["peak_memory"] = median(memory)
    for key in ("linear_bytes", "base_bytes"):
        found[key] = rounds[0][OURS][key] / rounds[0][DENSE][key]
    return found


def show(report: dict[str, Any]) -> int:
    """Print the ratios; 1 where a bar is missed."""
    found, missed = report["ratios"], 0
    for name in BARS:
        one = found[name]
        met = one["speed"] >= one["bar"]
        missed += not met
        print(
            f"luthier nf4 / {name}: {one['speed']:.2f}x ({one['min']:.2f} to {one['max']:.2f}), bar {one['bar']}x "
            f"{'met' if met else 'MISSED'}; peak memory {one['peak_memory']:.2f}x"
        )
    met = found["linear_bytes"] <= WEIGHTS
    print(
        f"linears in NF4 take {found['linear_bytes']:.3f}x of bfloat16, bar {WEIGHTS}x {'met' if met else 'MISSED'}; "
        f"with embeddings, head and norms {found['base_bytes']:.3f}x"
    )
    return int(missed > 0 or not met)


if __name__ == "__main__":
    sys.exit(main())
