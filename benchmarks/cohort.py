# SPDX-License-Identifier: Apache-2.0
"""Eight adapters on one base (ranks 4, 16, 64, 256; LoRA and rsLoRA): together, in turn, and with TRL; prints ratios.

    python benchmarks/cohort.py                         256, 2,048 and 4,096 tokens a step, three rounds, TRL in one
    python benchmarks/cohort.py --rounds 1 --no-trl

Every side is measured as a user would start it: processes with their start-up, model loading and saving. `together` is
one process that trains all eight; `in turn` is eight runs of `luthier.train`, each in a process of its own; `trl` is
eight runs of TRL at its defaults (8 examples a step, 1,840 tokens on average) beside 2,048 tokens a step of ours.
Ratios are of processor seconds inside a round, so a machine that gets busier hurts all sides alike; wall-clock is
written down too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from run import machine
from workload import make_model, read_rows, write_rows

HERE = Path(__file__).parent
ADAPTERS = [(r, rslora) for rslora in (False, True) for r in (4, 16, 64, 256)]
BARS = {"in turn at 256": 1.5, "in turn at 4096": 1.0, "trl at 2048": 4.0, "peak memory": 1.2}
TRL = 2048
EXAMPLE = {256: (1, 256), 2048: (8, 256), 4096: (16, 256)}  # tokens a step: bins, tokens of a bin


def main() -> int:
    """Run the rounds, print the table, write the JSON; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, nargs="+", default=sorted(EXAMPLE), choices=sorted(EXAMPLE))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--no-trl", action="store_true", help="Leave TRL's eight runs out; they take many minutes.")
    parser.add_argument("--rows", type=Path, help="An alpaca JSON file; default: rows made from the shipped sets.")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "cohort_cpu.json")
    parser.add_argument("--side", help=argparse.SUPPRESS)  # what a process of this benchmark does
    args = parser.parse_args()
    if args.side:
        side(json.loads(args.side))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = read_rows(args.rows)
        make_model(folder / "model", rows)
        write_rows(folder / "rows.jsonl", rows)
        tokens = args.tokens[-1]
        own([plan(folder, tokens, 1, 0)], folder)  # tokens and C++ loops go to the cache before anybody's clock runs
        rounds = [one_round(folder, args, number) for number in range(args.rounds)]
    report = {"rounds": rounds, "ratios": ratios(rounds), "machine": machine(), "date": time.strftime("%Y-%m-%d")}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    return show(report)


def one_round(folder: Path, args: argparse.Namespace, number: int) -> dict[str, Any]:
    """Each side once at each size; the order turns with every round."""
    found: dict[str, Any] = {}
    for tokens in args.tokens:
        plans = [plan(folder, tokens, args.steps, place) for place in range(len(ADAPTERS))]
        sides = {
            "together": lambda plans=plans: own(plans, folder),
            "in turn": lambda plans=plans: added([own([one], folder) for one in plans]),
        }
        if number == 0 and not args.no_trl and tokens == TRL:
            sides["trl"] = lambda: added([trl(folder, args.steps, *adapter) for adapter in ADAPTERS])
        for name in list(sides)[:: -1 if number % 2 else 1]:
            found[f"{name} at {tokens}"] = sides[name]()
            told = found[f"{name} at {tokens}"]
            rate = told["tokens"] / told["cpu_seconds"]
            said = f"{told['cpu_seconds']:.1f} CPU s, {told['seconds']:.1f} s, {rate:.0f} tokens/CPU s"
            print(f"round {number + 1}, {name} at {tokens}: {said}", file=sys.stderr, flush=True)
    return found


def plan(folder: Path, tokens: int, steps: int, place: int) -> dict[str, Any]:
    """One adapter's recipe: packed bins, so that every step holds (almost) so many tokens."""
    bins, length = EXAMPLE[tokens]
    r, rslora = ADAPTERS[place]
    return {
        "model": {"model_name_or_path": str(folder / "model")},
        "data": {"train": {"path": str(folder / "rows.jsonl"), "format": "prompt_completion"}, "max_length": length},
        "method": {"name": "lora", "r": r, "lora_alpha": 16, "use_rslora": rslora},
        "optim": {"learning_rate": 2e-4, "warmup_ratio": 0.0},
        "train": {"max_steps": steps, "per_device_train_batch_size": bins},
        "seed": place,
        "output_dir": str(folder / "out" / str(place)),
    }


def side(plans: list[dict[str, Any]]) -> None:
    """Train one recipe or several in this process, and print what the runs' summaries say."""
    import torch

    from luthier.recipe import load_recipe

    torch.set_num_threads(1)
    recipes = [load_recipe(one) for one in plans]
    if len(recipes) == 1:
        from luthier.run import train

        results = [train(recipes[0], overwrite=True)]
    else:
        from luthier.cohort import Asked, train_together

        asked = [Asked(resolved=recipe, overwrite=True) for recipe in recipes]
        results = []
        for _, outcome in train_together(asked):
            if isinstance(outcome, Exception):
                raise outcome
            results.append(outcome)
    keys = ("tokens", "trainable_parameters", "shared", "cpu_seconds")
    print(json.dumps([{key: result.summary[key] for key in keys} for result in results]))


def own(plans: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Luthier in a process: seconds from its start to its end, and what it trained."""
    words = [sys.executable, str(Path(__file__)), "--side", json.dumps(plans)]
    found = watched(words, folder)
    runs = json.loads(found.pop("out"))
    trainable = sum(run["trainable_parameters"] for run in runs)
    steps = sum(run["cpu_seconds"] for run in runs)
    tokens = sum(run["tokens"] for run in runs)
    return found | {"tokens": tokens, "trainable": trainable, "shared": runs[0]["shared"], "in_steps": steps}


def trl(folder: Path, steps: int, r: int, rslora: bool) -> dict[str, Any]:
    """TRL at its defaults in a process."""
    words = [sys.executable, str(HERE / "peer_sft.py"), "--trainer", "trl", "--model", str(folder / "model")]
    words += ["--data", str(folder / "rows.jsonl"), "--output-dir", str(folder / "trl"), "--lora-r", str(r)]
    words += ["--lora-alpha", "16", "--steps", str(steps), "--warmup", "1", "--batch-size", "8", "--max-length", "512"]
    found = watched(words + ["--rslora"] * rslora, folder)
    return found | {"tokens": json.loads(found.pop("out").strip().splitlines()[-1])["tokens"]}


def watched(words: list[str], folder: Path) -> dict[str, Any]:
    """Run a process to its end: its seconds, its processor seconds, its peak memory, its output."""
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "LUTHIER_HOME": str(folder / "home")}
    environment |= {"TRL_EXPERIMENTAL_SILENCE": "1"}
    began = time.perf_counter()
    with (folder / "errors.txt").open("w") as errors:
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | environment
        )
        assert process.stdout is not None
        out = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"{words[1:4]} failed:\n{(folder / 'errors.txt').read_text()[-3000:]}")
    spent = time.perf_counter() - began
    return {"seconds": spent, "cpu_seconds": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss * 1024, "out": out}


def added(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs in turn as one: sums, and the highest and the lowest peak."""
    total: dict[str, Any] = {key: sum(run[key] for run in runs) for key in ("seconds", "cpu_seconds", "tokens")}
    total |= {"peak": max(run["peak"] for run in runs), "smallest_peak": min(run["peak"] for run in runs)}
    if "in_steps" in runs[0]:
        total["in_steps"] = sum(run["in_steps"] for run in runs)
        total["smallest"] = min(run["trainable"] for run in runs)
    return total


def ratios(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Throughput of `together` over the others, and its peak over a base and the adapters' states."""
    found: dict[str, list[float]] = {}
    for one in rounds:
        for name in (name for name in one if not name.startswith("together")):
            tokens = name.rpartition(" ")[2]
            mine, other = one[f"together at {tokens}"], one[name]
            rate = [run["tokens"] / run["cpu_seconds"] for run in (mine, other)]
            found.setdefault(name, []).append(rate[0] / rate[1])
            if name.startswith("in turn"):
                steps = [run["tokens"] / run["in_steps"] for run in (mine, other)]
                found.setdefault(f"{name}, training steps alone", []).append(steps[0] / steps[1])
                # Weights, gradients and two moments in float32, beside a run of the smallest adapter without its own.
                allowed = other["smallest_peak"] + 16 * (mine["trainable"] - other["smallest"])
                found.setdefault(f"peak memory at {tokens}", []).append(mine["peak"] / allowed)
    return {name: {"median": median(of), "min": min(of), "max": max(of)} for name, of in found.items()}


def show(report: dict[str, Any]) -> int:
    """Print the ratios; 1 where a bar is missed."""
    missed = 0
    for name, found in report["ratios"].items():
        is_memory = name.startswith("peak")
        bar = BARS["peak memory"] if is_memory else BARS.get(name)
        good = bar is None or (found["median"] <= bar if is_memory else found["median"] >= bar)
        missed += not good
        verdict = "" if bar is None else f", bar {bar}x {'met' if good else 'MISSED'}"
        said = "of one base and the adapters' states" if is_memory else "together / " + name
        label = f"{name}: {found['median']:.2f}x {said}" if is_memory else f"{said}: {found['median']:.2f}x"
        print(f"{label} ({found['min']:.2f} to {found['max']:.2f}){verdict}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
