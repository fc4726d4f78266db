# SPDX-License-Identifier: Apache-2.0
"""Luthier against TRL and transformers' Trainer, interleaved, one thread each; prints ratios and writes results/.

    make bench                                  five rounds on the built-in rows
    python benchmarks/run.py --rounds 3 --rows alpaca.json

Every round runs each side once, in turn, in a process of its own. Ratios are taken inside a round and their median
is reported, so a machine that gets slower or faster hurts both sides alike. The last part trains both sides on the
same rows in the same order and compares the loss curves.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from workload import make_model, read_rows, write_rows

HERE = Path(__file__).parent
BEST = ["--checkpointing", "off", "--group-by-length"]
SIDES = {
    "luthier (defaults)": ["ours_sft.py"],
    "trl (defaults)": ["peer_sft.py", "--trainer", "trl"],
    "trl (best: no checkpointing, grouped)": ["peer_sft.py", "--trainer", "trl", *BEST],
    "transformers Trainer + peft (best)": ["peer_sft.py", "--trainer", "hf", *BEST],
}
OURS, SLOW = "luthier (defaults)", "trl (defaults)"
BARS = {"trl (defaults)": 4.5, "trl (best: no checkpointing, grouped)": 2.0, "transformers Trainer + peft (best)": 1.3}


def main() -> int:
    """Run the rounds, print the table, write the JSON; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--slow-rounds", type=int, help="TRL's defaults, half of a round's time, in so many rounds only."
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--rows", type=Path, help="An alpaca JSON file; default: rows made from the shipped sets.")
    parser.add_argument("--shape", default="m25", choices=["m25", "m110"])
    parser.add_argument("--output", type=Path, default=HERE / "results" / "sft_cpu.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = read_rows(args.rows)
        make_model(folder / "model", rows, args.shape)
        write_rows(folder / "rows.jsonl", rows)
        rounds = [one_round(folder, args, number) for number in range(args.rounds)]
        curves = loss_curves(folder, args)
    report = {
        "rounds": rounds,
        "ratios": ratios(rounds),
        "loss_curve_largest_relative_difference": curves,
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "rows": str(args.rows.name) if args.rows else "built-in",
        "shape": args.shape,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    return show(report)


def one_round(folder: Path, args: argparse.Namespace, number: int) -> dict[str, Any]:
    """Each side once; the order turns with every round."""
    slow = args.rounds if args.slow_rounds is None else args.slow_rounds
    names = [name for name in SIDES if name != SLOW or number < slow]
    names = names[number % len(names) :] + names[: number % len(names)]
    found = {name: one_side(SIDES[name], folder, args) for name in names}
    line = "  ".join(f"{name.split(' (')[0]} {found[name]['tokens_per_cpu_second']:.0f}" for name in found)
    print(f"round {number + 1}: {line} tokens/CPU s", file=sys.stderr, flush=True)
    return {name: {k: v for k, v in found[name].items() if k != "losses"} for name in found}


def one_side(words: list[str], folder: Path, args: argparse.Namespace, *more: str) -> dict[str, Any]:
    """Run one side in its own process and read the line it prints."""
    command = [sys.executable, str(HERE / words[0]), *words[1:]]
    command += ["--model", str(folder / "model"), "--data", str(folder / "rows.jsonl")]
    command += ["--output-dir", str(folder / "out"), "--steps", str(args.steps), "--warmup", str(args.warmup), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def loss_curves(folder: Path, args: argparse.Namespace) -> float:
    """Both sides on the same rows in file order: the largest relative difference of a step's loss."""
    ours = one_side(SIDES[OURS], folder, args, "--no-shuffle")["losses"]
    words = ["peer_sft.py", "--trainer", "hf", "--checkpointing", "off"]
    peer = one_side(words, folder, args, "--no-shuffle")["losses"]
    return max(abs(a - b) / b for a, b in zip(ours, peer, strict=True))


def ratios(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Luthier over each peer, pair by pair inside a round."""
    found = {}
    for name in SIDES:
        if name != OURS:
            both = [r for r in rounds if name in r]
            speed = [r[OURS]["tokens_per_cpu_second"] / r[name]["tokens_per_cpu_second"] for r in both]
            memory = [r[OURS]["peak_rss_bytes"] / r[name]["peak_rss_bytes"] for r in both]
            found[name] = {
                "speed": {
                    "median": median(speed),
                    "min": min(speed),
                    "max": max(speed),
                    "bar": BARS[name],
                    "rounds": len(both),
                },
                "peak_memory": {"median": median(memory), "min": min(memory), "max": max(memory)},
            }
    return found


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    packages = ("torch", "transformers", "peft", "trl")
    return {
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "threads_used": 1,
        "versions": {name: metadata.version(name) for name in packages},
    }


def show(report: dict[str, Any]) -> int:
    """Print the ratios; 1 where a bar is missed."""
    missed = 0
    for name, found in report["ratios"].items():
        speed, memory = found["speed"], found["peak_memory"]
        verdict = "met" if speed["median"] >= speed["bar"] else "MISSED"
        missed += verdict == "MISSED"
        print(
            f"luthier / {name}: {speed['median']:.2f}x ({speed['min']:.2f} to {speed['max']:.2f}), "
            f"bar {speed['bar']}x {verdict}; peak memory {memory['median']:.2f}x"
        )
    best = min(found["peak_memory"]["median"] for found in report["ratios"].values())
    worst = max(found["peak_memory"]["median"] for found in report["ratios"].values())
    verdict = "met" if worst <= 0.6 else "MISSED"
    print(f"peak memory against the leanest peer {worst:.2f}x, bar 0.6x {verdict} (best {best:.2f}x)")
    difference = report["loss_curve_largest_relative_difference"]
    print(f"loss curves differ by at most {difference:.2%}, bar 1 % {'met' if difference <= 0.01 else 'MISSED'}")
    return int(missed > 0 or worst > 0.6 or difference > 0.01)


if __name__ == "__main__":
    sys.exit(main())
