# SPDX-License-Identifier: Apache-2.0
"""Luthier's side of `dpo.py`: the same pairs through `luthier.train`. One JSON line on stdout.

The reference is asked in every step (`precompute_ref_log_probs: false`), so its cost is inside the steps. `--sft`
trains on the same trees' tokens without a preference, for the comparison of peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
from pathlib import Path
from typing import Any


def main() -> None:
    """Train and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--unshared", action="store_true", help="A prompt once for each of its answers.")
    parser.add_argument("--sft", action="store_true", help="The same tokens without a preference.")
    parser.add_argument("--output-dir", required=True)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    import luthier

    torch.set_num_threads(1)
    luthier.train(recipe(args), overwrite=True)
    lines = (Path(args.output_dir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    first, last = records[args.warmup - 1], records[-1]
    seconds = last["cpu_seconds"] - first["cpu_seconds"]
    told = {
        "pairs_per_cpu_second": (args.steps - args.warmup) * args.batch_size / seconds,
        "tokens": last["tokens"] / args.steps,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "first_loss": records[0]["loss"],
    }
    print(json.dumps(told))


def recipe(args: argparse.Namespace) -> dict[str, Any]:
    """The peer's settings, in Luthier's words."""
    data: dict[str, Any] = {"path": args.data, "format": "preference"}
    objective: dict[str, Any] = {"name": "dpo", "beta": 0.1, "precompute_ref_log_probs": False}
    if args.sft:
        data, objective = {"path": args.data, "format": "prompt_completion"}, {"name": "sft"}
    preference = {} if args.sft else {"share_prompts": not args.unshared}
    return {
        "model": {"model_name_or_path": args.model},
        "data": {"train": data, "max_length": args.max_length, "packing": False, **preference},
        "method": {"name": "lora", "r": 16, "lora_alpha": 32},
        "objective": objective,
        "optim": {"learning_rate": 5e-5, "warmup_ratio": 0.0},
        "train": {"max_steps": args.steps, "per_device_train_batch_size": args.batch_size},
        "output_dir": args.output_dir,
    }


if __name__ == "__main__":
    main()
