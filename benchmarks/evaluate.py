# SPDX-License-Identifier: Apache-2.0
"""`luthier evaluate` on the built-in suite, as a user runs it, beside transformers' own batched generation; seconds.

    python benchmarks/evaluate.py --output benchmarks/results/evaluate_cpu.txt

Nothing is trained: the built-in model, and the same with a LoRA (r 16, all linears) whose numbers are drawn. Each round
runs every side once, in turn, each in a process of its own with the machine's default threads (`--threads` sets
another number): first word to last is `whole`, prompts to judged replies is `alone`. The peer renders the same prompts,
pads them to the left and asks `model.generate` for 100 at a time in their order; at its best it sorts them by length
and runs on one thread, as Luthier does by itself with a model as small as this. Both run in what the model was saved
in (bfloat16); in float32 their replies are compared besides. Exit code 0: the whole process takes at most 5 s (median),
and in float32 every reply is the peer's.
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

BASE, SUITE = "embedded", "embedded"
BAR = 5.0
BATCH, LONGEST = 100, 32
PEERS = {"transformers": [], "transformers at its best": ["--by-length", "--threads", "1"]}


def main() -> int:
    """Run the rounds and print the table; 1 where a bar is missed or a reply differs."""
    options = _options()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ.pop("OMP_NUM_THREADS", None)
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    if options.peer:
        print(json.dumps(peer(options.peer, options.items, by_length=options.by_length)))
        return 0
    lines = [_machine(options)]
    with tempfile.TemporaryDirectory(prefix="evaluate-") as scratch:
        adapter = make_adapter(Path(scratch) / "adapter")
        failed = False
        for name, model in (("the built-in model", BASE), ("the same with a LoRA", str(adapter))):
            told, missed = measure(name, model, Path(scratch), options)
            lines += told
            failed |= missed
    print("\n".join(lines))
    if options.output:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(failed)


def make_adapter(folder: Path) -> Path:
    """A LoRA that changes replies and lets them end: what it trains, moved at random."""
    import torch

    from luthier.core import registry
    from luthier.models import load_model, load_tokenizer
    from luthier.recipe import Model

    torch.manual_seed(0)
    model = load_model(Model(model_name_or_path=BASE), torch.float32)
    method = registry.get("methods", "lora")
    trainable = method.apply(model, method.Config(r=16, lora_alpha=16))
    for parameter in trainable.parameters().values():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    folder.mkdir()
    trainable.save(folder)
    load_tokenizer(BASE, None, False).save_pretrained(folder)
    return folder


def measure(name: str, model: str, scratch: Path, options: argparse.Namespace) -> tuple[list[str], bool]:
    """Rounds of every side on one model: lines of the table, and whether a bar was missed."""
    rounds: list[dict[str, dict[str, Any]]] = []
    for number in range(options.rounds):
        sides = ["luthier", *PEERS]
        sides = sides[number % len(sides) :] + sides[: number % len(sides)]
        rounds.append({side: _one(side, model, scratch, options) for side in sides})
    replies = {side: found["replies"] for side, found in rounds[-1].items()}
    tokens = rounds[-1]["transformers"]["tokens"] / options.items
    lines = ["", f"{name}, {options.items} items, {tokens:.1f} tokens a reply"]
    for side in ("luthier", *PEERS):
        whole, alone = ([found[side][what] for found in rounds] for what in ("whole", "alone"))
        same = sum(map(str.__eq__, replies[side], replies["luthier"]))
        ratio = median(found[side]["alone"] / found["luthier"]["alone"] for found in rounds)
        told = f"  {ratio:4.1f} times luthier's, {same} replies are luthier's" if side != "luthier" else ""
        lines.append(f"  {side:<24} whole {_spread(whole)} s   alone {_spread(alone)} s{told}")
    missed = median(found["luthier"]["whole"] for found in rounds) > BAR
    same = in_float32(model, options.items)
    lines.append(f"  in float32 {same} replies of {options.items} are the same")
    lines.append(f"  bar: the whole process in {BAR:.0f} s: {'MISSED' if missed else 'met'}")
    return lines, missed or same < options.items


def in_float32(model: str, items: int) -> int:
    """How many replies are transformers' own."""
    from luthier.evaluate import evaluate, load_suite
    from luthier.run import load

    found = evaluate(*load(model, "float32"), load_suite(SUITE, items), batch_size=BATCH, max_new_tokens=LONGEST)
    ours = [row["reply"] for row in found.rows]
    return sum(map(str.__eq__, ours, peer(model, items, dtype="float32")["replies"]))


def _spread(seconds: list[float]) -> str:
    return f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


def _one(side: str, model: str, scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One process, from its first word to its last."""
    words = ["--items", str(options.items)]
    if side == "luthier":
        command = [sys.executable, "-m", "luthier", "evaluate", model, "--suite", SUITE, "--json", *words]
        command += ["--output", str(scratch), "--batch-size", str(BATCH), "--max-new-tokens", str(LONGEST)]
    else:
        command = [sys.executable, __file__, "--peer", model, *words]
        command += PEERS[side] or (["--threads", str(options.threads)] if options.threads else [])
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    whole = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if side != "luthier":
        return found | {"whole": whole}
    (scores,) = found["evaluation"].values()
    (written,) = scratch.glob("predictions-*.jsonl")
    replies = [json.loads(line)["reply"] for line in written.read_text(encoding="utf-8").splitlines()]
    return {"whole": whole, "alone": scores["seconds"], "replies": replies}


def peer(name: str, items: int, *, by_length: bool = False, dtype: str = "bfloat16") -> dict[str, Any]:
    """What somebody writes with transformers (and PEFT) alone; only the items are read by Luthier's code."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from luthier.evaluate.suite import load_suite
    from luthier.models.load import locate

    base = locate(BASE)
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    if name != BASE:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, name)
    model.eval()
    asked = load_suite(SUITE, items).items
    begun = time.perf_counter()
    turns = [[{"role": one.role, "content": one.content} for one in item.messages] for item in asked]
    texts = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    order = sorted(range(len(texts)), key=lambda place: -len(texts[place])) if by_length else range(len(texts))
    order, replies, tokens = list(order), [""] * len(texts), 0
    settings: Any = {"max_new_tokens": LONGEST, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    for first in range(0, len(order), BATCH):
        numbers = order[first : first + BATCH]
        given = tokenizer([texts[one] for one in numbers], return_tensors="pt", padding=True, add_special_tokens=False)
        given.pop("token_type_ids", None)
        with torch.inference_mode():
            out = model.generate(**given, **settings, eos_token_id=_stops(tokenizer, model))
        out = out[:, given["input_ids"].shape[1] :]
        tokens += int((out != tokenizer.pad_token_id).sum())
        for number, text in zip(numbers, tokenizer.batch_decode(out, skip_special_tokens=True), strict=True):
            replies[number] = text.strip()
    return {"alone": time.perf_counter() - begun, "replies": replies, "tokens": tokens}


def _stops(tokenizer: Any, model: Any) -> list[int]:
    """The end of a turn of the built-in template, and the checkpoint's own end."""
    from luthier.models.generate import stop_ids

    return stop_ids(model, tokenizer)


def _machine(options: argparse.Namespace) -> str:
    import platform
    from importlib import metadata

    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers"))
    threads = options.threads or "the default number of"
    return f"{platform.machine()}, {os.cpu_count()} cores, {threads} threads; {versions}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--by-length", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
