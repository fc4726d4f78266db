# SPDX-License-Identifier: Apache-2.0
"""Plans against measurements: peak memory and time of every method, for SFT and DPO, on two models.

    taskset -c 0 python benchmarks/plan.py --kept cases.jsonl --out benchmarks/results/plan_cpu.txt

The built-in model (3 M) and a random Llama of 110 M train some steps, each run in a process of its own on one thread.
Memory is the process's resident set above what it was with everything imported and nothing loaded; time is the
processor's, which other processes disturb little. Bytes are planned from the configuration alone (a run plans the
same of the model that it has loaded; both are compared, and a difference is told); seconds by both. Cases that `--kept`
has are not run again: their bytes are planned anew from what was counted, so one sees at once what a constant does to
all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

METHODS = ("full", "freeze", "lora", "lora_fa", "loha", "lokr", "vera", "ia3", "adapter", "bitfit", "norm")
METHODS += ("prefix", "prompt", "ptuning", "llama_adapter", "dora", "nf4")
NAMED: dict[str, dict[str, Any]] = {
    "dora": {"name": "lora", "use_dora": True},
    "nf4": {"name": "lora"},
    "bitfit": {"name": "bitfit", "add_biases": True},
}
SETS = {"sft": "embedded:train", "dpo": "embedded:preference_train"}
BATCH = {("embedded", "sft"): 4, ("embedded", "dpo"): 16, ("llama", "sft"): 2, ("llama", "dpo"): 8}
STEPS = {"embedded": 8, "llama": 4}
# Of the 110 M in full 1.8 GiB are touched for the first time: on a virtual machine that gives free memory back to its
# host that takes 2.5 s a GiB, once; on others 0.4 s. No plan knows it, so these runs last longer.
LONGER = {("llama", "full"): 40}
MEMORY, TIME = 0.10, 0.25  # what a plan may be off by
SAME = 0.005  # of two plans of one case


def make_llama(folder: Path) -> None:
    """A random Llama of 110 M with the built-in model's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from luthier.models import load_tokenizer

    tokenizer = load_tokenizer("embedded")
    sizes = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12}
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(vocab_size=32_000, max_position_embeddings=2048, tie_word_embeddings=True, **sizes, **ends)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    # transformers zeroes the row of the padding, which chats here begin with; 24 norms of a zero vector overflow
    torch.nn.init.normal_(model.get_input_embeddings().weight[ends["pad_token_id"]], std=config.initializer_range)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run_one(model: str, where: str, method: str, objective: str, out: Path) -> dict[str, Any]:
    """Train, and plan the same recipe from its configuration."""
    import luthier
    import luthier.run  # before anything is measured

    recipe = {
        "model": {"model_name_or_path": where, "quantization": "nf4" if method == "nf4" else "none"},
        "data": {"train": SETS[objective], "max_length": 512},
        "method": NAMED.get(method, {"name": method}),
        "objective": objective,
        "train": {
            "max_steps": LONGER.get((model, method), STEPS[model]),
            "per_device_train_batch_size": BATCH[model, objective],
        },
        "optim": {"learning_rate": 1e-5},
        "output_dir": str(out),
    }
    summary = luthier.train(recipe).summary
    found = luthier.plan(recipe)
    plan, measured = summary["plan"], summary["plan"]["measured"]
    return {
        "memory": measured["peak_memory_bytes"],
        "planned": plan["peak_memory_bytes"],
        "from_config": found.peak_memory_bytes,
        "counts": asdict(found.case.counts),
        "work": asdict(found.case.work),
        "seconds": measured["cpu_seconds"],
        "planned_seconds": plan["seconds"],
        "seconds_from_config": found.seconds,
    }


def planned_again(found: dict[str, Any]) -> int:
    """Bytes of what was counted."""
    from luthier.engine.flops import Rates
    from luthier.planning.activations import Kept
    from luthier.planning.counts import Counts
    from luthier.planning.need import need_of
    from luthier.planning.work import Work
    from luthier.recipe import Optim

    counts = found["counts"]
    trained = {int(size): tuple(numbers) for size, numbers in counts["trained"].items()}
    parts = {"trained": trained, "kept": Kept(*counts["kept"]), "rates": Rates(**counts["rates"])}
    return need_of(Counts(**counts | parts), Work(**found["work"]), Optim(learning_rate=1e-5), "cpu").total


def line_of(case: tuple[str, str, str], found: dict[str, Any]) -> tuple[str, float, float]:
    """A row of the table, and the plan's bytes and seconds over those that were measured."""
    measured, planned = found["memory"], planned_again(found)
    seconds = [found[key] for key in ("seconds", "planned_seconds", "seconds_from_config")]
    ratios = [planned / measured, seconds[1] / seconds[0], seconds[2] / seconds[0]]
    told = "" if abs(found["planned"] / found["from_config"] - 1) < SAME else "  the run's own plan differs"
    line = f"{case[0]:9}{case[1]:14}{case[2]:5}{measured / 2**20:8.0f}{planned / 2**20:8.0f}{ratios[0]:6.2f}"
    line += f"{seconds[0]:9.2f}{seconds[1]:8.2f}{ratios[1]:6.2f}{seconds[2]:8.2f}{ratios[2]:6.2f}{told}"
    return line, ratios[0], ratios[1]


def main() -> None:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--models", nargs="*", default=["embedded", "llama"])
    parser.add_argument("--objectives", nargs="*", default=["sft", "dpo"])
    parser.add_argument("--kept", type=Path, help="JSON lines of the cases that are done; more are written to it")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        model, where, method, objective, out = args.one
        print(json.dumps(run_one(model, where, method, objective, Path(out))))
        return
    sizes, times = f"{'MiB':>8}{'plan':>8}{'':6}", f"{'CPU s':>9}{'plan':>8}{'':6}{'config':>8}"
    head = f"{'model':9}{'method':14}{'':5}{sizes}{times}"
    lines, ratios, kept = [head], [], _read(args.kept)
    print(head, flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        llama = Path(scratch) / "llama"
        cases = [(m, n, o) for m in args.models for n in args.methods for o in args.objectives]
        if any(case[0] == "llama" and case not in kept for case in cases):
            make_llama(llama)
        for case in cases:
            where = "embedded" if case[0] == "embedded" else str(llama)
            found = kept[case] if case in kept else _child(case, where, Path(scratch) / "-".join(case))
            if isinstance(found, str):
                lines.append(f"{case[0]:9}{case[1]:14}{case[2]:5} {found}")
            else:
                line, *off = line_of(case, found)
                lines.append(line)
                ratios.append(off)
                if args.kept and case not in kept:
                    with args.kept.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({"case": case, **found}) + "\n")
            print(lines[-1], flush=True)
    within = [sum(abs(r[i] - 1) <= limit for r in ratios) for i, limit in enumerate((MEMORY, TIME))]
    lines.append(f"within {MEMORY:.0%} of memory: {within[0]} of {len(ratios)}; {TIME:.0%} of time: {within[1]}")
    print(lines[-1])
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _read(file: Path | None) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The cases that were done before."""
    if file is None or not file.exists():
        return {}
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {tuple(one.pop("case")): one for one in found}


def _child(case: tuple[str, str, str], where: str, out: Path) -> dict[str, Any] | str:
    command = [sys.executable, __file__, "--one", case[0], where, case[1], case[2], str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"failed: {done.stderr.strip().splitlines()[-1][:160]}"
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
