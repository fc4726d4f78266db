# SPDX-License-Identifier: Apache-2.0
"""How fast rows become tokens, and how much memory that takes: MB of JSONL a minute, cold cache.

    python benchmarks/data_speed.py                                   the built-in tokenizer and rows
    python benchmarks/data_speed.py --tokenizer FOLDER --rows alpaca.json --megabytes 30 120

Rows are those given, each with a number of its own, repeated until the file is as large as wanted. Each size runs in
a process of its own, with an empty cache; packing of the whole epoch is timed with it. What must hold: at least
50 MB a minute on two cores, memory that does not grow with the file, and 97 % filled batches.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from workload import read_rows


def main() -> None:
    """Print one line a size; exit code 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default="embedded")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[20, 80])
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one, args.tokenizer)))
        return
    missed = False
    for size in args.megabytes:
        with tempfile.TemporaryDirectory(prefix="data-speed-") as scratch:
            file = Path(scratch) / "rows.jsonl"
            _write(file, read_rows(args.rows), size)
            words = [sys.executable, __file__, "--one", str(file), "--tokenizer", args.tokenizer]
            environment = os.environ | {"LUTHIER_HOME": f"{scratch}/home", "HF_HUB_OFFLINE": "1"}
            done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
        found = json.loads(done.stdout.strip().splitlines()[-1])
        print(
            f"{size} MB: {found['mb_per_minute']:.0f} MB/min ({found['seconds']:.1f} s, {found['rows']:,} rows, "
            f"{found['tokens']:,} tokens), batches {found['fill']:.1%} full, peak {found['peak_mb']:.0f} MB"
        )
        missed |= found["mb_per_minute"] < 50 or found["fill"] < 0.97
    sys.exit(missed)


def _write(file: Path, rows: list[dict[str, str]], megabytes: int) -> None:
    written = number = 0
    with file.open("w", encoding="utf-8") as out:
        while written < megabytes * 1_000_000:
            row = rows[number % len(rows)]
            line = json.dumps({"prompt": f"{number}. {row['prompt']}", "completion": row["completion"]}) + "\n"
            written += out.write(line)
            number += 1


def one(file: Path, tokenizer_name: str) -> dict[str, Any]:
    """Tokenise and pack one file; seconds without imports and the tokenizer's loading."""
    from luthier.data import Batches, prepare
    from luthier.models import load_tokenizer
    from luthier.recipe import load_recipe

    recipe = load_recipe(
        {
            "model": {"model_name_or_path": tokenizer_name},
            "data": {"train": {"path": str(file), "format": "prompt_completion"}, "max_length": 2048, "packing": True},
            "train": {"per_device_train_batch_size": 1, "num_train_epochs": 1.0},
            "output_dir": str(file.parent / "out"),
        }
    ).recipe
    tokenizer = load_tokenizer(tokenizer_name, alone=True)
    began = time.perf_counter()
    prepared = prepare(recipe.data, tokenizer, which="train")
    bins = Batches(prepared.rows, recipe.data, recipe.train, recipe.seed).total_steps  # one bin a step, one epoch
    seconds = time.perf_counter() - began
    account = prepared.ledger.accounts[0]
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "mb_per_minute": file.stat().st_size / 1e6 / seconds * 60,
        "seconds": seconds,
        "rows": account.read,
        "tokens": account.tokens,
        "fill": account.tokens / (bins * recipe.data.max_length),
        "peak_mb": peak / 1024,
    }


if __name__ == "__main__":
    main()
