# SPDX-License-Identifier: Apache-2.0
"""Folders as runs and studies leave them, written by hand: every number is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from luthier.study.conclude import methods, rank_curve
from luthier.study.design import Tuned, design
from luthier.study.report import write_report
from luthier.study.results import Run, StudyResult
from luthier.study.said import said
from luthier.study.schema import load_study
from luthier.study.tuning import sentences

ITEMS = 40
CATEGORIES = ("math", "code")


@pytest.fixture
def run_folder() -> Callable[..., Path]:
    """Write one run: its recipe, curve, and (where a share is given) summary and predictions."""

    def write(
        folder: Path,
        *,
        seed: int | None = 0,
        share: float | None = 0.5,
        steps: int = 10,
        total: int = 10,
        judged: bool = False,
        **recipe: Any,
    ) -> Path:
        folder.mkdir(parents=True)
        if seed is not None:
            method = {"name": "lora", "r": 16, "lora_alpha": 16.0, "use_rslora": False, **recipe}
            method = {key: value for key, value in method.items() if value is not None}
            tree = {"model": {"model_name_or_path": "embedded"}, "method": method, "objective": {"name": "sft"}}
            tree |= {"train": {"max_steps": total}, "seed": seed}
            (folder / "recipe.yaml").write_text(
                f"# luthier recipe, fingerprint {'0' * 16}\n{yaml.safe_dump(tree)}", "utf-8"
            )
            lines = [
                {"step": n, "loss": 4.0 / n + 0.01 * seed, "grad_norm": 8.0 / method.get("r", 8), "tokens": 50 * n,
                 "seconds": 0.5 * n}
                for n in range(1, steps + 1)
            ]  # fmt: skip
            if judged:
                lines = [{**line, "rewards/margins": 0.3 * n - 1, "rewards/accuracies": 1 - 0.5 / n}
                         for n, line in enumerate(lines, 1)]  # fmt: skip
                lines.append(
                    {"step": steps, "eval_loss": 0.5, "eval_rewards/margins": 1.5, "eval_rewards/accuracies": 0.75}
                )
            (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        if share is None:
            return folder
        right = [n < round(share * ITEMS) for n in range(ITEMS)]
        rows = [{"reply": "x", "right": r, "category": CATEGORIES[n % 2]} for n, r in enumerate(right)]
        (folder / "predictions-mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        summary: dict[str, Any] = {"name": folder.name, "fingerprint": f"{folder.parent.name}-{seed}"}
        summary["evaluation"] = {"mine": {"value": share, "stderr": 0.05, "items": ITEMS, "seconds": 1.0}}
        if seed is not None:
            summary |= {
                "steps": steps, "tokens": 50 * steps, "seconds": 0.5 * steps, "tokens_per_second": 100.0,
                "final_loss": 0.4, "trained_loss": 0.45, "trainable_parameters": 1000 * method.get("r", 64),
                "state_bytes": (1 << 20) * method.get("r", 64), "peak_memory_bytes": 300 << 20, "seed": seed,
                "hardware": {"processor": "Abacus", "cores": 2, "threads": 1, "memory_bytes": 8 << 30, "gpu": None},
                "versions": {"luthier": "0.1.0", "torch": "2.13.0"},
            }  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(summary), "utf-8")
        return folder

    return write


@pytest.fixture
def study(tmp_path: Path, run_folder: Callable[..., Path]) -> Path:
    """A study of four variants and two seeds as it was before there was a study.json; one run of it never began."""
    folder = tmp_path / "a study"
    runs = folder / "runs"
    run_folder(runs / "base", seed=None, share=0.1)
    for seed in (0, 1):
        run_folder(runs / "r4" / f"seed-{seed}", seed=seed, share=0.4, r=4)
        run_folder(runs / "r16" / f"seed-{seed}", seed=seed, share=0.4 + 0.05 * seed, r=16)
        run_folder(runs / "rs16" / f"seed-{seed}", seed=seed, share=0.8, r=16, use_rslora=True)
    full = {"name": "full", "r": None, "lora_alpha": None, "use_rslora": None}
    run_folder(runs / "full" / "seed-0", seed=0, share=0.6, **full)
    plan = {
        "title": "Four ways", "variants": {"r4": {}, "r16": {}, "rs16": {}, "full": {}}, "seeds": [0, 1],
        "evaluate": ["mine"], "baseline": "r4", "include_base": True, "output_dir": str(folder),
    }  # fmt: skip
    (folder / "study.yaml").write_text(yaml.safe_dump(plan, sort_keys=False), "utf-8")
    return folder


WHOLE = {
    "lora-r16": {"method.r": 16},
    "lora-r64": {"method.r": 64},
    "rslora-r16": {"method.r": 16, "method.use_rslora": True},
    "rslora-r64": {"method.r": 64, "method.use_rslora": True},
    "full": {"method": "full"},
}
SHARES = {"lora-r16": 0.4, "lora-r64": 0.45, "rslora-r16": 0.8, "rslora-r64": 0.4, "full": 0.6}


@pytest.fixture
def whole(tmp_path: Path, run_folder: Callable[..., Path]) -> Path:
    """A study that ended, with every kind of sentence in its study.json: written by the study's own code."""
    folder = tmp_path / "whole"
    tree = {
        "title": "Five ways", "variants": WHOLE, "seeds": [0, 1], "evaluate": "embedded", "axis": "method.r",
        "base": {"model": {"model_name_or_path": "embedded-tiny"}, "data": {"train": "embedded:train"},
                 "method": {"name": "lora", "r": 16, "lora_alpha": 16}, "optim": {"learning_rate": 1e-3},
                 "train": {"max_steps": 10}},
        "claims": [{"better": "rslora-r16", "than": "lora-r16"}, {"no_difference": ["lora-r16", "rslora-r64"]},
                   {"at_least": "lora-r64", "as": "full"}],
        "tune": {"keys": {"optim.learning_rate": [1e-3, 3e-3]}, "on": "embedded-dev"},
        "budget": {"scored_tokens": 5000}, "output_dir": str(folder),
    }  # fmt: skip
    tree["base"].pop("train")
    study = load_study(tree)
    plan = design(study)
    runs = [_run(run_folder(folder / "runs" / "base", seed=None, share=0.0), "base", None)]
    for planned in plan.runs:
        method = {key: planned.resolved.recipe.method.get(key) for key in ("name", "r", "lora_alpha", "use_rslora")}
        share = SHARES[planned.variant] + 0.05 * planned.seed
        made = run_folder(planned.folder, seed=planned.seed, share=share, judged=True, **method)
        runs.append(_run(made, planned.variant, planned.seed))
    (folder / "study.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json", by_alias=True)), "utf-8")
    tuned = {
        "full": Tuned(
            values={"optim.learning_rate": 3e-3}, score=0.5, edge={"optim.learning_rate": "highest"}, tried=()
        )
    }
    amount = said("amount_scored_tokens", amount="5,000")
    notes = (said("budget_planned", amount=amount, steps=said("budget_steps", steps=10)), *sentences(study, tuned))
    result = StudyResult(folder=folder, design=replace(plan, notes=notes), runs=tuple(runs), suites={"mine": ITEMS})
    write_report(result, [rank_curve(result), *methods(result, tuned_where=said("limits_rates"))])
    return folder


def _run(folder: Path, variant: str, seed: int | None) -> Run:
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    summary |= {"scored_tokens": 100, "cpu_seconds": summary.get("seconds", 0.0)}
    (folder / "summary.json").write_text(json.dumps(summary), "utf-8")
    lines = (folder / "predictions-mine.jsonl").read_text("utf-8").splitlines()
    right = np.array([float(json.loads(line)["right"]) for line in lines])
    return Run(variant=variant, seed=seed, folder=folder, summary=summary, right={"mine": right})
