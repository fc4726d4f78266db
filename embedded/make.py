# SPDX-License-Identifier: Apache-2.0
"""Make everything that is shipped as the embedded model: tokenizer, weights and instruction sets.

Run from anywhere: `python embedded/make.py [--size small|tiny|all] [--tokens N] [--only sets|tokenizer|models]`. The
result goes to `src/luthier/models/embedded/`. One seed decides everything; an interrupted pretraining goes on where it
was saved.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
from corpus import documents
from pretrain import SIZES, Settings, pretrain
from sets import write_sets
from tokenizer import save_tokenizer, train_tokenizer

HERE = Path(__file__).resolve().parent
SHIPPED = HERE.parent / "src" / "luthier" / "models" / "embedded"
TOKENIZER_PART = -2
TOKENIZER_DOCUMENTS = 20000


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=[*SIZES, "all"], default="all")
    parser.add_argument("--tokens", type=int, default=12_288_000, help="tokens of pretraining for each size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["sets", "tokenizer", "models"], help="make only a part")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=SHIPPED)
    parser.add_argument("--no-compile", action="store_true", help="do without torch.compile")
    return parser.parse_args()


def make_models(arguments: argparse.Namespace) -> None:
    """Train the tokenizer, then, unless only that was asked for, each model."""
    texts = itertools.islice(documents(arguments.seed, TOKENIZER_PART), TOKENIZER_DOCUMENTS)
    tokenizer = train_tokenizer(texts)
    for size in SIZES if arguments.size == "all" else [arguments.size]:
        folder = arguments.output / size
        save_tokenizer(tokenizer, folder)
        if arguments.only == "tokenizer":
            continue
        settings = Settings(size=size, tokens=arguments.tokens, seed=arguments.seed)
        record = pretrain(settings, tokenizer, folder, HERE / "scratch", compiled=not arguments.no_compile)
        print(record)


def main() -> None:
    """Make what was asked for."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.only in (None, "sets"):
        write_sets(arguments.output / "sets")
    if arguments.only != "sets":
        make_models(arguments)


if __name__ == "__main__":
    main()
