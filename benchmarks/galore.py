# SPDX-License-Identifier: Apache-2.0
"""What GaLore spares of AdamW's state at a rank of a quarter of the width, and what a new subspace costs.

    python benchmarks/galore.py                        a Llama of 8 x 512, rank 128; a matrix of 2048 x 2048
    python benchmarks/galore.py --hidden 768 --layers 12 --side 4096

State: `full` and `galore` take two steps of AdamW, each in a process of its own; what the optimiser holds then is
counted tensor by tensor, and by how much the process has grown from before the first step to after the second, with
gradients freed at both. It stands beside the formula: 2 m n numbers of each matrix, or m r + 2 r n.

Refresh: the leading singular vectors of a matrix of random numbers whose singular values fall as 1/i, by the seeded
range finder, and by torch's full SVD; float32, the quickest of three, of the processor's time over the threads.

Bars: at most 0.45 times AdamW's state by all three counts; the range finder at least 5 times as fast. Reference:
Zhao et al., GaLore, arXiv 2403.03507, table 1.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from run import machine

MOST, LEAST = 0.45, 5.0
MIB = 1 << 20


def main() -> int:
    """Print both tables; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512, help="width d; the rank is d / 4")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--side", type=int, default=2048, help="of the matrix whose subspace is found")
    parser.add_argument("--ranks", type=int, nargs="+", help="default: 1/16, 1/8 and 1/4 of the side")
    parser.add_argument("--method", choices=("full", "galore"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.method:
        print(json.dumps(states(args)))
        return 0
    told = machine()
    versions = ", ".join(f"{name} {told['versions'][name]}" for name in ("torch", "transformers"))
    print(f"{told['processor']}; {versions}\n{' '.join(['python benchmarks/galore.py', *sys.argv[1:]])}\n")
    missed = report_states(args)
    ranks = args.ranks or [args.side // 16, args.side // 8, args.side // 4]
    return int(report_refresh(args.side, ranks) or missed)


def report_states(args: argparse.Namespace) -> bool:
    """The table of states; whether the bar is missed."""
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "65536"
    }  # what is freed is given back, so growth is what is held
    found: dict[str, Any] = {}
    for method in ("full", "galore"):
        words = ["--hidden", str(args.hidden), "--layers", str(args.layers), "--method", method]
        done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(done.stderr)
        found[method] = json.loads(done.stdout.strip().splitlines()[-1])
    whole, small = found["full"], found["galore"]
    shape = f"Llama {args.layers} x {args.hidden}, {whole['parameters']:,} parameters"
    print(f"AdamW's state, {shape}, r = {args.hidden // 4}, float32")
    missed = False
    for key, words in (
        ("matrices_formula", "projected matrices, by formula"),
        ("matrices_held", "projected matrices, tensors held"),
        ("formula", "all parameters, by formula"),
        ("held", "all parameters, tensors held"),
        ("grown", "all parameters, growth of the process"),
    ):
        ratio = small[key] / whole[key]
        missed |= ratio > MOST
        print(f"  {words:38} full {whole[key] / MIB:7.1f} MiB  galore {small[key] / MIB:7.1f} MiB  {ratio:.3f} times")
    print(f"  goal: at most {MOST} times: {'missed' if missed else 'met'}\n")
    return missed


def states(args: argparse.Namespace) -> dict[str, int]:
    """Two steps of one method; bytes of the optimiser's state."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from luthier.core import registry
    from luthier.engine.optim import build_optimizer, optimizer_bytes
    from luthier.models.targets import find_targets
    from luthier.recipe import Optim

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=args.hidden,
        intermediate_size=args.hidden * 11 // 4,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 64,
        vocab_size=1024,
        tie_word_embeddings=True,
    )
    model: Any = LlamaForCausalLM(config)
    names = [f"{name}.weight" for name in find_targets(model, "all-linear")]
    matrices = [dict(model.named_parameters())[name] for name in names]
    entry = registry.get("methods", args.method)
    keys = {"rank": args.hidden // 4} if args.method == "galore" else {}
    trainable, optim = entry.apply(model, entry.Config(**keys)), Optim()
    optimizer = build_optimizer(optim, trainable, trainable.parameters())
    before = 0
    for step in range(2):
        ids = torch.randint(config.vocab_size, (1, 64))
        model(input_ids=ids, labels=ids).loss.backward()
        if step == 0:
            gradients = sum(p.grad.nbytes for p in model.parameters())
            before = resident() - gradients
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    grown = resident() - before
    rank = args.hidden // 4
    smaller = sum(min(p.shape) * rank + 2 * rank * max(p.shape) for p in matrices)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "matrices_formula": 4 * (smaller if args.method == "galore" else sum(2 * p.numel() for p in matrices)),
        "matrices_held": held(optimizer, matrices),
        "formula": optimizer_bytes(optim, trainable),
        "held": held(optimizer, list(model.parameters())),
        "grown": grown,
    }


def held(optimizer: Any, parameters: list[Any]) -> int:
    """Bytes of all storages in the state of some parameters, each once."""
    import torch

    tensors = [t for p in parameters for t in optimizer.state[p].values() if isinstance(t, torch.Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def resident() -> int:
    """Bytes of this process, after what is free has been given back."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def report_refresh(side: int, ranks: list[int]) -> bool:
    """The table of times; whether the bar is missed."""
    import torch

    from luthier.methods._projection import by_range_finder, by_svd, generator_of
    from luthier.planning.calibrate import best_of

    torch.manual_seed(0)
    cpu = torch.device("cpu")
    left, _ = torch.linalg.qr(torch.randn(side, side))
    right, _ = torch.linalg.qr(torch.randn(side, side))
    matrix = (left / torch.arange(1, side + 1)) @ right.T
    slow = best_of(lambda: by_svd(matrix, side), cpu, enough=60.0)
    print(f"new subspace of {side} x {side}, float32, {torch.get_num_threads()} thread; full SVD {slow:.2f} s")
    missed = False
    for rank in ranks:
        fast = best_of(lambda: by_range_finder(matrix, rank, generator_of(cpu, 0)), cpu)  # noqa: B023 - called at once
        basis = by_range_finder(matrix, rank, generator_of(cpu, 0))
        best = left[:, :rank]
        kept = float((basis.T @ matrix).square().sum() / (best.T @ matrix).square().sum())
        missed |= slow / fast < LEAST
        print(
            f"  r {rank:4}  range finder {fast:6.3f} s  {slow / fast:5.1f} times as fast; {kept:.4f} of the best energy"
        )
    print(f"  goal: at least {LEAST:g} times as fast: {'missed' if missed else 'met'}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
