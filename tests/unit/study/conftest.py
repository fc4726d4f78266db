# SPDX-License-Identifier: Apache-2.0
"""Studies without training: real designs, made-up verdicts."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luthier.evaluate.items import Item
from luthier.study.design import design
from luthier.study.results import Run, StudyResult
from luthier.study.schema import load_study

BASE_RECIPE = {
    "model": {"model_name_or_path": "embedded-tiny"},
    "data": {"train": "embedded:train", "max_length": 128},
    "method": {"name": "lora", "r": 16, "lora_alpha": 16},
    "optim": {"learning_rate": 1.0e-3},
    "train": {"max_steps": 3, "per_device_train_batch_size": 2},
}
METHODS = {
    "lora-r16": {"method.r": 16},
    "lora-r64": {"method.r": 64},
    "rslora-r16": {"method.r": 16, "method.use_rslora": True},
    "rslora-r64": {"method.r": 64, "method.use_rslora": True},
    "full": {"method": "full"},
}


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    """A study of two variants."""
    return {
        "base": deepcopy(BASE_RECIPE),
        "variants": {"r4": {"method.r": 4}, "r8": {"method.r": 8}},
        "evaluate": "embedded",
        "output_dir": str(tmp_path / "study"),
    }


@pytest.fixture
def made_up(tmp_path: Path) -> Callable[..., StudyResult]:
    """Build a result: variant -> share right (or a list of shares by seed, or None for a run that failed)."""

    def build(shares: dict[str, Any], seeds: list[int] = [0], items: int = 400, **changes: Any) -> StudyResult:  # noqa: B006
        tree = {
            "base": BASE_RECIPE,
            "variants": METHODS,
            "evaluate": "embedded",
            "seeds": seeds,
            "axis": "method.r",
            "title": "Made up",
            "output_dir": str(tmp_path / "made-up"),
            **changes,
        }
        plan = design(load_study(tree))
        runs = []
        if "base" in shares:
            runs.append(_run(plan, "base", None, shares["base"], items))
        for place, seed in enumerate(seeds):
            for name in plan.study.variants:
                share = shares.get(name, 0.5)
                runs.append(_run(plan, name, seed, share[place] if isinstance(share, list) else share, items))
        (tmp_path / "made-up").mkdir(exist_ok=True)
        return StudyResult(
            folder=tmp_path / "made-up",
            design=plan,
            runs=tuple(runs),
            suites={"embedded": items},
            items={"embedded": [_item(place) for place in range(items)]},
        )

    return build


def _item(place: int) -> Item:
    return Item(category="code" if place % 2 else "math")


def _run(plan: Any, variant: str, seed: int | None, share: float | None, items: int) -> Run:
    folder = plan.runs[0].folder.parents[1] / variant / f"seed-{seed}"
    if share is None:
        return Run(variant=variant, seed=seed, folder=folder, summary={}, right={}, error="loss nan | at step 3")
    right = np.zeros(items)
    right[: round(share * items)] = 1.0
    summary = {
        "trained_loss": 1.0 - share,
        "trainable_parameters": 1000,
        "seconds": 10.0,
        "tokens": 5000,
        "scored_tokens": 800,
        "tokens_per_second": 500.0,
        "cpu_seconds": 20.0,
        "peak_memory_bytes": 300 << 20,
        "state_bytes": 100 << 20,
        "dtype": "float32",
        "hardware": {"processor": "Abacus", "threads": 2, "gpu": None},
        "evaluation": {
            "embedded": {
                "value": share,
                "stderr": 0.02,
                "items": items,
            }
        },
    }
    if variant == "base":
        summary = {key: summary[key] for key in ("dtype", "evaluation")}
    return Run(variant=variant, seed=seed, folder=folder, summary=summary, right={"embedded": right})
