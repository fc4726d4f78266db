# SPDX-License-Identifier: Apache-2.0
"""Luthier's side of `run.py`: the same rows through `luthier.train` at its defaults. One JSON line on stdout."""

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
    parser.add_argument("--no-shuffle", action="store_true")
    parser.add_argument("--quantization", choices=["none", "nf4"], default="none")
    parser.add_argument("--output-dir", required=True)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    import luthier

    torch.set_num_threads(1)
    done = luthier.train(recipe(args), overwrite=True)
    lines = (Path(args.output_dir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    first, last = records[args.warmup - 1], records[-1]
    tokens = last["tokens"] - first["tokens"]
    print(
        json.dumps(
            {
                "tokens_per_cpu_second": tokens / (last["cpu_seconds"] - first["cpu_seconds"]),
                "tokens_per_second": tokens / (last["seconds"] - first["seconds"]),
                "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "losses": [record["loss"] for record in records],
                **weights(done.model),
            }
        )
    )


def weights(model: Any) -> dict[str, int]:
    """Bytes of the linears that are quantised or would be, and of the whole base, as they are kept."""
    from luthier.kernels.quantized import Quantized

    parameters = {name: p for name, p in model.named_parameters() if "lora_" not in name}
    kept = {
        n: p.stored_bytes() if isinstance(p, Quantized) else p.numel() * p.element_size() for n, p in parameters.items()
    }
    inside = sum(size for name, size in kept.items() if "_proj." in name)
    return {"linear_bytes": inside, "base_bytes": sum(kept.values())}


def recipe(args: argparse.Namespace) -> dict[str, Any]:
    """The peers' settings, in Luthier's words: no packing, 8 examples a step, no warm-up."""
    return {
        "model": {
            "model_name_or_path": args.model,
            "quantization": args.quantization,
            "bnb_4bit_use_double_quant": args.quantization != "none",
        },
        "data": {
            "train": {"path": args.data, "format": "prompt_completion"},
            "max_length": 512,
            "packing": False,
            "shuffle": not args.no_shuffle,
        },
        "method": {"name": "lora", "r": 16, "lora_alpha": 32},
        "optim": {"learning_rate": 2e-4, "warmup_ratio": 0.0},
        "train": {"max_steps": args.steps, "per_device_train_batch_size": 8},
        "output_dir": args.output_dir,
    }


if __name__ == "__main__":
    main()
