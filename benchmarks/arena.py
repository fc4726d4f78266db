# SPDX-License-Identifier: Apache-2.0
"""Memory and processor time of runs whose tensors stand in one stretch of addresses, and of the C library's allocator.

    taskset -c 0 python benchmarks/arena.py --rounds 3 --out benchmarks/results/arena_cpu.txt

Each run is a process of its own on one thread; both sides train the same steps in turns, and their losses must be the
same. Memory is the process's highest resident set above what it was with everything imported and nothing loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from plan import make_llama

CASES = (("embedded", "full", 60), ("embedded", "lora", 60), ("llama", "full", 8), ("llama", "lora", 8))
BATCH = {"embedded": 4, "llama": 2}
SIDES = ("C library", "stretch")


def run_one(where: str, method: str, steps: int, batch: int, side: str, out: str) -> dict[str, Any]:
    """Train, and say what it took."""
    import luthier
    import luthier.run  # before anything is measured
    from luthier.kernels.native import arena

    if side == SIDES[0]:
        arena._found = lambda: (None, "off (benchmark)")
    recipe = {
        "model": {"model_name_or_path": where},
        "data": {"train": "embedded:train", "max_length": 512},
        "method": {"name": method},
        "train": {"max_steps": steps, "per_device_train_batch_size": batch, "logging_steps": 1},
        "optim": {"learning_rate": 1e-5},
        "output_dir": out,
    }
    summary = luthier.train(recipe).summary
    assert (summary["hardware"]["arena"] == "on") is (side == SIDES[1]), summary["hardware"]["arena"]
    measured = summary["plan"]["measured"]
    return {"mib": measured["peak_memory_bytes"] / 2**20, "cpu": measured["cpu_seconds"], "loss": summary["final_loss"]}


def main() -> None:
    """Run both sides in turns and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        where, method, steps, batch, side, out = args.one
        print(json.dumps(run_one(where, method, int(steps), int(batch), side, out)))
        return
    sides = "".join(f"{side:>10}" for side in SIDES) + f"{'ratio':>7}"
    lines = [f"{'':30}{'MiB':^27}{'CPU seconds':^27}", f"{'':30}{sides}{sides} (least, most)"]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        make_llama(Path(scratch) / "llama")
        for model, method, steps in CASES:
            where = "embedded" if model == "embedded" else str(Path(scratch) / "llama")
            words = (where, method, str(steps), str(BATCH[model]))
            found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
            for turn in range(args.rounds):
                for side in SIDES:
                    found[side].append(_child(*words, side, f"{scratch}/{model}-{method}-{turn}-{side[0]}"))
            lines.append(_line(f"{model} {method}, {steps} steps", found))
            print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _line(name: str, found: dict[str, list[dict[str, Any]]]) -> str:
    ours, theirs = found[SIDES[1]], found[SIDES[0]]
    assert len({one["loss"] for one in (*ours, *theirs)}) == 1, "both sides must learn the same"
    parts = [f"{name:30}"]
    for key, form in (("mib", "10.0f"), ("cpu", "10.2f")):
        middle = [sorted(one[key] for one in found[side])[len(found[side]) // 2] for side in SIDES]
        ratios = sorted(b[key] / a[key] for a, b in zip(theirs, ours, strict=True))
        parts.append("".join(f"{value:{form}}" for value in middle) + f"{middle[1] / middle[0]:7.2f}")
    return "".join(parts) + f" ({ratios[0]:.2f}, {ratios[-1]:.2f})"


def _child(*words: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
