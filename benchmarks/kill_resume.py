# SPDX-License-Identifier: Apache-2.0
"""`kill -9` a run at random instants, resume it, and compare every bit with a run that never stopped.

    python benchmarks/kill_resume.py                # LoRA, 20 random instants, 4 aimed at the writing of a checkpoint
    python benchmarks/kill_resume.py --method full --dtype bfloat16

The runs pack, drop out, accumulate gradients, evaluate, and write a checkpoint after every step. An instant may fall
into start-up, a step, a checkpoint or the writing of the result. What must be equal: all files of the result, the last
checkpoint's tensors, and every line of metrics.jsonl but for its clock. Each run is a process of its own, forked from
one that has imported everything. Exit code 0: all are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CLOCK = {"seconds", "cpu_seconds", "tokens_per_second"}
_LOOK = os.WEXITED | os.WNOWAIT | os.WNOHANG
SHOWN = "{:>3}  {:<10}  {:>9}  {:>9}  {:<22}  {}"


def main() -> None:
    """Run the experiment and print its table."""
    options = _options()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory(prefix="kill-resume-") as scratch:
        os.environ.setdefault("LUTHIER_HOME", f"{scratch}/home")
        failures = experiment(options, Path(scratch))
    print(f"{failures} of {options.instants + options.aimed} runs differ" if failures else "every bit is equal")
    sys.exit(bool(failures))


def experiment(options: argparse.Namespace, scratch: Path) -> int:
    """Compare killed and resumed runs with one that never stopped.

    Returns:
        How many differ.
    """
    import luthier.run  # noqa: F401 - once, for all forks

    whole = scratch / "whole"
    began = time.monotonic()
    if _wait(_fork(options, whole, resume=False)):
        sys.exit("the run that is never stopped failed")
    seconds = time.monotonic() - began
    wanted = bits(whole)
    print(f"{options.method} {options.dtype}, {options.steps} steps, {seconds:.1f} s, seed {options.seed}\n")
    print(SHOWN.format("#", "aimed at", "killed at", "saved", "left behind", "after resuming"))
    draw, failures, number = random.Random(options.seed), 0, 0
    while number < options.instants + options.aimed:
        folder, aim = scratch / f"run-{number}", draw.randrange(1, options.steps) * (number >= options.instants)
        child, began = _fork(options, folder, resume=False), time.monotonic()
        killed = _kill(child, folder, 0.0 if aim else draw.uniform(0.0, seconds), aim)
        if not killed:  # it was done before: no instant of a run
            shutil.rmtree(folder)
            continue
        number += 1
        left, saved = _left_behind(folder), _newest(folder)
        code = _wait(_fork(options, folder, resume=True))
        found = bits(folder) if not code else {}
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        failures += bool(differing)
        verdict = f"exit code {code}" if code else f"differs: {', '.join(differing[:3])}" if differing else "equal"
        aimed = "checkpoint" if aim else "anything"
        print(SHOWN.format(number, aimed, f"{killed - began:.2f} s", saved, left, verdict), flush=True)
    return failures


def bits(folder: Path) -> dict[str, Any]:
    """What must be equal of a finished run."""
    found: dict[str, Any] = {}
    for place in (*folder.glob("adapter/*"), *folder.glob("model/*"), *folder.glob("checkpoints/*/*.safetensors")):
        found[str(place.relative_to(folder))] = place.read_bytes()
    for number, line in enumerate((folder / "metrics.jsonl").read_text().splitlines()):
        found[f"metrics.jsonl:{number}"] = {k: v for k, v in json.loads(line).items() if k not in CLOCK}
    summary = json.loads((folder / "summary.json").read_text())
    return found | {name: summary[name] for name in ("steps", "tokens", "final_loss", "evaluation")}


def recipe(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything that could make a difference is on."""
    import luthier

    sets = Path(luthier.__file__).parent / "models" / "embedded" / "sets"
    method = {"name": "lora", "r": 4, "lora_dropout": 0.1} if options.method == "lora" else {"name": "full"}
    return {
        "model": {"model_name_or_path": options.model, "dtype": options.dtype},
        "data": {
            "train": [{"path": options.rows or sets / "train.jsonl", "max_rows": 60, "weight": 1.5}],
            "eval": [{"path": options.rows or sets / "dev.jsonl", "max_rows": 12}],
            "max_length": 96,
        },
        "method": method,
        "optim": {"learning_rate": 1e-3, "lr_scheduler_type": "cosine"},
        "train": {
            "max_steps": options.steps,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "logging_steps": 3,
            "eval_steps": 4,
            "save_steps": 1,
        },
        "output_dir": folder,
    }


def _fork(options: argparse.Namespace, folder: Path, *, resume: bool) -> int:
    """Train in a new process; return its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        import torch

        from luthier.run import train

        torch.manual_seed(os.getpid())  # whatever was drawn before a run must not matter
        sys.stderr = (folder.parent / f"{folder.name}.log").open("a")
        train(recipe(options, folder), resume=resume, say=lambda line: print(line, file=sys.stderr))
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _kill(child: int, folder: Path, instant: float, aim: int) -> float:
    """Kill a run at an instant, or while it writes the checkpoint of a step (or one after it).

    Returns:
        When, or 0 where it was done before.
    """
    time.sleep(instant)
    while aim and not _is_writing(folder, aim) and os.waitid(os.P_PID, child, _LOOK) is None:
        time.sleep(0)
    os.kill(child, signal.SIGKILL)  # a process that is done stays as a zombie until it is waited for
    return time.monotonic() if _wait(child) == -signal.SIGKILL else 0.0


def _is_writing(folder: Path, step: int) -> bool:
    return any(int(path.name.split("-")[1]) >= step for path in folder.glob("checkpoints/.writing-*"))


def _newest(folder: Path) -> str:
    steps = [int(path.name.removeprefix("step-")) for path in folder.glob("checkpoints/step-*")]
    return f"step {max(steps)}" if steps else "-"


def _left_behind(folder: Path) -> str:
    """What state the kill left the folder in."""
    half = [path.relative_to(folder).parts[0] for path in folder.rglob(".writing-*")]
    if half:
        return "half of a checkpoint" if half[0] == "checkpoints" else "half of the result"
    if (folder / "summary.json").exists():
        return "a finished run"
    if any((folder / name).exists() for name in ("adapter", "model")):
        return "a result, no summary"
    return "a run" if (folder / "recipe.yaml").exists() else "nothing"


def _options() -> argparse.Namespace:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--method", choices=("lora", "full"), default="lora")
    words.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    words.add_argument("--model", default="embedded")
    words.add_argument("--rows", default=None, help="alpaca rows; by default the embedded ones")
    words.add_argument("--steps", type=int, default=12)
    words.add_argument("--instants", type=int, default=20)
    words.add_argument("--aimed", type=int, default=4, help="kills aimed at the writing of a checkpoint, besides")
    words.add_argument("--seed", type=int, default=0)
    return words.parse_args()


if __name__ == "__main__":
    main()
