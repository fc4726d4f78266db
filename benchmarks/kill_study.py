# SPDX-License-Identifier: Apache-2.0
"""`kill -9` a study at random instants, start it again each time, and look for runs that were lost or done twice.

    python benchmarks/kill_study.py                 # 200 runs of the tiny embedded model, 20 kills

A run is finished once its result and its summary.json stand in its folder, whether the study has filed it or not. After
each kill the result's files are looked at: number on the disk, time of change, content. A finished run is lost if they
are gone at a later look, and repeated if they are others. At the end every run must be in results.json, none failed.
Each start is a process of its own, forked from one that has imported everything. Exit code 0: none lost, none repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHOWN = "{:>4}  {:>9}  {:>8}  {:>5}  {:>8}"


def main() -> None:
    """Run the experiment and print its table."""
    options = _options()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory(prefix="kill-study-") as scratch:
        os.environ.setdefault("LUTHIER_HOME", f"{scratch}/home")
        faults = experiment(options, Path(scratch))
    print("\n".join(faults) or "no finished run was lost, none was repeated")
    sys.exit(bool(faults))


def experiment(options: argparse.Namespace, scratch: Path) -> list[str]:
    """Kill and start again, then let the study end.

    Returns:
        What went wrong.
    """
    import luthier.study.runner  # noqa: F401 - once, for all forks

    runs = options.variants * options.seeds
    few = min(options.variants, 4)
    _wait(_fork(study(options, scratch / "first", variants=1, seeds=1)))  # fills the caches
    began = time.monotonic()
    _wait(_fork(study(options, scratch / "pace", variants=few, seeds=1)))
    pace = (time.monotonic() - began) / few
    print(f"{runs} runs of about {pace:.2f} s, {options.kills} kills, jobs {options.jobs}, seed {options.seed}\n")
    print(SHOWN.format("kill", "after", "finished", "lost", "repeated"), flush=True)
    tree = study(options, scratch / "study", variants=options.variants, seeds=options.seeds)
    draw, folder, longest = random.Random(options.seed), scratch / "study", 1.6 * runs * pace / (options.kills + 1)
    seen: dict[str, Any] = {}
    faults: list[str] = []
    number = 0
    while number < options.kills:
        instant = draw.uniform(0.0, longest)
        child = _fork(tree)
        time.sleep(instant)
        os.kill(child, signal.SIGKILL)
        if _wait(child) != -signal.SIGKILL:  # it was done before
            longest /= 2
            continue
        number += 1
        _settled(folder)
        lost, repeated = _look(folder, seen)
        faults += [f"lost: {name}" for name in lost] + [f"repeated: {name}" for name in repeated]
        print(SHOWN.format(number, f"{instant:.2f} s", len(seen), len(lost), len(repeated)), flush=True)
    code = _wait(_fork(tree))
    lost, repeated = _look(folder, seen)
    faults += [f"lost: {name}" for name in lost] + [f"repeated: {name}" for name in repeated]
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    faults += [f"failed: {run['variant']}, seed {run['seed']}: {run['error']}" for run in results if run.get("error")]
    if code or len(results) != runs or len(seen) != runs:
        faults.append(f"exit code {code}, {len(results)} runs in results.json, {len(seen)} finished, {runs} wanted")
    return faults


def study(options: argparse.Namespace, folder: Path, *, variants: int, seeds: int) -> dict[str, Any]:
    """Very short runs: one step on a handful of rows, one question."""
    suite = folder.parent / "one.jsonl"
    suite.write_text(json.dumps({"prompt": "1+1?", "answer": "2"}) + "\n", encoding="utf-8")
    return {
        "base": {
            "model": {"model_name_or_path": options.model, "dtype": "float32"},
            "data": {"train": [{"path": options.rows, "max_rows": 24}], "max_length": 128},
            "method": {"name": "lora", "r": 2},
            "train": {"max_steps": 1, "per_device_train_batch_size": 1},
        },
        "axes": {"optim.learning_rate": [1e-4 * (1 + place) for place in range(variants)]},
        "seeds": list(range(seeds)),
        "evaluate": str(suite),
        "include_base": False,
        "jobs": options.jobs,
        "output_dir": str(folder),
    }


def _look(folder: Path, seen: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Finished runs that are gone, and that were written anew; fills `seen` with those that are there."""
    now: dict[str, Any] = {}
    for place in folder.glob("runs/*/seed-*"):
        weights = place / "adapter" / "adapter_model.safetensors"
        if (place / "summary.json").exists() and weights.exists():
            status = weights.stat()
            now[f"{place.parent.name}/{place.name}"] = (status.st_ino, status.st_mtime_ns, weights.read_bytes())
    lost = sorted(seen.keys() - now.keys())
    repeated = sorted(name for name in seen.keys() & now.keys() if seen[name] != now[name])
    seen |= now
    return lost, repeated


def _settled(folder: Path) -> None:
    """Wait until the workers of a killed study have saved and gone: they hold its lock."""
    import fcntl

    if (folder / ".lock").exists():
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)


def _fork(tree: dict[str, Any]) -> int:
    """Run the study in a new process; return its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        from luthier.study import compare

        code = int(bool(compare(tree).failed))
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _options() -> argparse.Namespace:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--model", default="embedded-tiny")
    words.add_argument("--rows", default="embedded:train")
    words.add_argument("--variants", type=int, default=40)
    words.add_argument("--seeds", type=int, default=5)
    words.add_argument("--kills", type=int, default=20)
    words.add_argument("--jobs", type=int, default=1)
    words.add_argument("--seed", type=int, default=0)
    return words.parse_args()


if __name__ == "__main__":
    main()
