# SPDX-License-Identifier: Apache-2.0
"""One GPU: LoRA r=16 on every linear of a Llama-3-8B shape, bfloat16, 4096-token bins, no recompute.

    python benchmarks/gpu_sft.py                     Luthier, then TRL + PEFT where they are installed
    python benchmarks/gpu_sft.py --short             also short samples (launch-bound work)
    python benchmarks/gpu_sft.py --shape toy --device cpu --steps 2     a trial without a GPU

Weights are random (from the configuration), so nothing is downloaded. Prints tokens/s, peak memory and the share of
the matrix-product peak that was measured on the same card in the same process; writes results/gpu_sft.json.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
SHAPES = {
    "llama3-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "rope_theta": 500000.0,
    },
    "toy": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    },
}
GOAL = 17_500  # tokens/s on an H200; the matrix products alone allow 21.9k (performance model: 34.0 GF/token)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="llama3-8b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--bins", type=int, default=4, help="Bins of --length tokens a step.")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--short", action="store_true", help="Also 8 alpaca-like samples a step.")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "gpu_sft.json")
    args = parser.parse_args()
    peak = matmul_peak(args.device)
    report: dict[str, Any] = {"hardware": hardware(args.device), "versions": versions()}
    report["matmul_peak_tflops"] = peak / 1e12
    variants = [("packed", bins(args.bins, args.length, SHAPES[args.shape]["vocab_size"]))]
    if args.short:
        variants.append(("short", samples(8, SHAPES[args.shape]["vocab_size"])))
    for name, batch in variants:
        report[f"luthier_{name}"] = luthier_side(args, batch, peak, compiled=not args.no_compile)
        if find_spec("peft"):
            report[f"transformers_peft_{name}"] = peft_side(args, batch, peak)
        print(json.dumps({k: v for k, v in report.items() if k.endswith(name)}, indent=1), flush=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    speed = report["luthier_packed"]["tokens_per_second"]
    print(f"luthier {speed:,.0f} tokens/s; goal {GOAL:,} on an H200 {'met' if speed >= GOAL else 'not met here'}")


def bins(count: int, length: int, vocabulary: int) -> list[Any]:
    """Full bins of two documents each, every token scored."""
    return [_tree(length // 2, vocabulary, seed) for seed in range(2 * count)]


def samples(count: int, vocabulary: int) -> list[Any]:
    """Alpaca-like lengths: log-normal, about 230 tokens on average."""
    lengths = np.random.default_rng(0).lognormal(5.25, 0.65, count).clip(30, 512).astype(int)
    return [_tree(int(n), vocabulary, seed) for seed, n in enumerate(lengths)]


def _tree(length: int, vocabulary: int, seed: int) -> Any:
    from luthier.core.types import Segment, Tree

    ids = np.random.default_rng(seed).integers(0, vocabulary, length).astype(np.int32)
    return Tree(segments=(Segment(ids=ids, scored=np.ones(length, np.bool_)),))


def base_model(args: argparse.Namespace, attention: str) -> Any:
    """Random weights, made on the device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**SHAPES[args.shape], max_position_embeddings=8192, tie_word_embeddings=False)
    with torch.device(args.device):
        return LlamaForCausalLM._from_config(config, attn_implementation=attention, dtype=torch.bfloat16)


def luthier_side(args: argparse.Namespace, batch: list[Any], peak: float, *, compiled: bool) -> dict[str, Any]:
    """Forward, backward, clip and AdamW through Luthier's own step."""
    import luthier.kernels.attention  # noqa: F401 - registers the attention
    from luthier.engine.optim import build_optimizer, clip
    from luthier.engine.precision import Masters
    from luthier.engine.regional import compile_layers
    from luthier.engine.step import accumulate
    from luthier.methods import lora
    from luthier.models.fuse import fuse
    from luthier.objectives import sft
    from luthier.recipe import Optim

    model = base_model(args, "luthier")
    fuse(model)
    trainable = lora.apply(model, lora.Config(r=16, lora_alpha=32))
    masters = Masters(trainable)
    optimizer = build_optimizer(Optim(), trainable, masters.twins)
    objective = sft.bind(sft.Config())
    if compiled and args.device == "cuda":
        compile_layers(model)

    def step() -> None:
        accumulate(model, objective, [batch])
        clip(masters.twins, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return measured(args, step, sum(len(tree) for tree in batch), peak, trainable.num_trainable)


def peft_side(args: argparse.Namespace, batch: list[Any], peak: float) -> dict[str, Any]:
    """The same tokens through transformers + PEFT: one padded row an example, torch's attention, no recompute."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        base_model(args, "sdpa"),
        LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        autocast_adapter_dtype=False,
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, fused=True)
    width = max(len(tree) for tree in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tree in enumerate(batch):
        ids[row, : len(tree)] = torch.from_numpy(tree.segments[0].ids.astype(np.int64))
        mask[row, : len(tree)] = 1
    ids, mask = ids.to(args.device), mask.to(args.device)
    labels = ids.masked_fill(mask == 0, -100)

    def step() -> None:
        model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return measured(args, step, sum(len(tree) for tree in batch), peak, sum(p.numel() for p in trained))


def measured(args: argparse.Namespace, step: Any, tokens: int, peak: float, trainable: int) -> dict[str, Any]:
    """Time the steps after the warm-up; out of memory is a result too."""
    cuda = args.device == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        for _ in range(args.warmup):
            step()
        _wait(cuda)
        start = time.perf_counter()
        for _ in range(args.steps):
            step()
        _wait(cuda)
    except torch.OutOfMemoryError as error:
        return {"out_of_memory": str(error).split(".")[0]}
    rate = args.steps * tokens / (time.perf_counter() - start)
    flops = flops_per_token(SHAPES[args.shape], trainable)
    return {
        "tokens_per_second": rate,
        "tokens_per_step": tokens,
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        "share_of_matmul_peak": rate * flops / peak,
    }


def flops_per_token(shape: dict[str, Any], trainable: int) -> float:
    """Forward and input gradients of the frozen products (4 P), and 6 for each low-rank weight; attention left out."""
    heads = shape["num_attention_heads"]
    width = shape["hidden_size"] // heads
    attention = shape["hidden_size"] * width * (2 * heads + 2 * shape["num_key_value_heads"])
    layer = attention + 3 * shape["hidden_size"] * shape["intermediate_size"]
    frozen = shape["num_hidden_layers"] * layer + shape["hidden_size"] * shape["vocab_size"]
    return 4.0 * frozen + 6.0 * trainable


def matmul_peak(device: str) -> float:
    """FLOP/s of a large bfloat16 product on this device."""
    n = 8192 if device == "cuda" else 512
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    _wait(device == "cuda")
    start, count = time.perf_counter(), 30
    for _ in range(count):
        a @ b
    _wait(device == "cuda")
    return 2.0 * n**3 * count / (time.perf_counter() - start)


def _wait(cuda: bool) -> None:
    if cuda:
        torch.cuda.synchronize()


def hardware(device: str) -> str:
    """The card's name."""
    return torch.cuda.get_device_name() if device == "cuda" else "CPU (trial only)"


def versions() -> dict[str, str]:
    """What the numbers depend on."""
    return {n: metadata.version(n) for n in ("torch", "transformers", "peft") if find_spec(n)}


if __name__ == "__main__":
    main()
