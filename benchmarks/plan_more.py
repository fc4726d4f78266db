# SPDX-License-Identifier: Apache-2.0
"""Plans against measurements away from `plan.py`'s cases: other optimisers, numbers, objectives, sizes and lengths.

    taskset -c 0 python benchmarks/plan_more.py --out benchmarks/results/plan_more_cpu.txt

Models, processes and what is measured are those of `plan.py`.
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

from plan import MEMORY, TIME, make_llama

PAIRS = "embedded:preference_train"
FEW = {"per_device_train_batch_size": 2, "max_steps": 4}
FULL = {"method": {"name": "full"}, "train": FEW}
STOCHASTIC = {"weights": "bfloat16_stochastic"}
# model, name, and the sections that differ from LoRA, SFT, 4 rows a micro-batch, 8 steps
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("embedded", "lora, orpo", {"objective": "orpo", "data": {"train": PAIRS}}),
    ("embedded", "lora, kto", {"objective": "kto", "data": {"train": PAIRS}}),
    ("embedded", "lora, 200 steps", {"train": {"max_steps": 200}}),
    ("embedded", "lora, float32", {"model": {"dtype": "float32"}}),
    ("embedded", "galore, 20 steps", {"method": {"name": "galore", "rank": 64}, "train": {"max_steps": 20}}),
    ("embedded", "full, 4 micro-batches", {"method": {"name": "full"}, "train": {"gradient_accumulation_steps": 4}}),
    ("embedded", "full, adafactor", {"method": {"name": "full"}, "optim": {"optim": "adafactor"}}),
    ("llama", "lora, recomputed", {"train": {"gradient_checkpointing": True}}),
    ("llama", "lora, half recomputed", {"train": {"gradient_checkpointing": 0.5}}),
    ("llama", "rslora, r 64", {"method": {"name": "lora", "r": 64, "use_rslora": True}}),
    ("llama", "lora, float32", {"model": {"dtype": "float32"}, "train": FEW}),
    ("llama", "lora on int8, dpo", {"model": {"quantization": "int8"}, "objective": "dpo", "data": {"train": PAIRS}}),
    *(("llama", f"full, {name}", FULL | {"optim": {"optim": name}}) for name in ("sgd", "lion", "adafactor")),
    *(("llama", f"full, {name}", FULL | {"optim": {"optim": name}}) for name in ("adamw_8bit", "lion_8bit")),
    ("llama", "full, stochastic", FULL | {"optim": STOCHASTIC}),
    ("llama", "full, stochastic, 8 bit", FULL | {"optim": STOCHASTIC | {"optim": "adamw_8bit"}}),
]


def run_one(where: str, sections: dict[str, Any], out: str) -> dict[str, Any]:
    """Train, and say what was planned and measured."""
    import luthier
    import luthier.run  # before anything is measured

    recipe: dict[str, Any] = {
        "model": {"model_name_or_path": where},
        "data": {"train": "embedded:train", "max_length": 512},
        "method": {"name": "lora"},
        "train": {"max_steps": 8, "per_device_train_batch_size": 4},
        "optim": {"learning_rate": 1e-5},
        "output_dir": out,
    }
    for name, given in sections.items():
        recipe[name] = recipe[name] | given if isinstance(given, dict) and name in recipe else given
    plan: dict[str, Any] = luthier.train(recipe).summary["plan"]
    return plan


def main() -> None:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        where, place, out = args.one
        print(json.dumps(run_one(where, CASES[int(place)][2], out)))
        return
    lines, within = [f"{'':34}{'MiB':>8}{'plan':>8}{'':6}{'CPU s':>9}{'plan':>8}"], [0, 0]
    print(lines[0], flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        make_llama(Path(scratch) / "llama")
        for place, (model, name, _) in enumerate(CASES):
            where = "embedded" if model == "embedded" else str(Path(scratch) / "llama")
            command = [sys.executable, __file__, "--one", where, str(place), str(Path(scratch) / str(place))]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            plan = json.loads(done.stdout.strip().splitlines()[-1])
            memory = [plan["measured"]["peak_memory_bytes"] / 2**20, plan["peak_memory_bytes"] / 2**20]
            seconds = [plan["measured"]["cpu_seconds"], plan["seconds"]]
            ratios = [memory[1] / memory[0], seconds[1] / seconds[0]]
            within = [within[0] + (abs(ratios[0] - 1) <= MEMORY), within[1] + (abs(ratios[1] - 1) <= TIME)]
            told = f"{memory[0]:8.0f}{memory[1]:8.0f}{ratios[0]:6.2f}{seconds[0]:9.2f}{seconds[1]:8.2f}{ratios[1]:6.2f}"
            lines.append(f"{model:9}{name:25}{told}")
            print(lines[-1], flush=True)
    lines.append(f"within {MEMORY:.0%} of memory: {within[0]} of {len(CASES)}; {TIME:.0%} of time: {within[1]}")
    print(lines[-1])
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
