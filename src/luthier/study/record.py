# SPDX-License-Identifier: Apache-2.0
"""What stands in the folder of one run of a study: its summary, its predictions, and whether they still hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.evaluate.suite import evaluate
from luthier.study.results import Run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from luthier.evaluate.suite import Suite
    from luthier.recipe import Recipe, Resolved

LAST = 20  # logged steps that the trained loss is the mean of: one step's loss is noisy


def stored(folder: Path, wanted: dict[str, str]) -> dict[str, Any] | None:
    """The summary of a run that is done and still the same, or None."""
    try:
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return summary if all(summary.get(key) == value for key, value in wanted.items()) else None


def was_stopped(folder: Path, resolved: Resolved) -> bool:
    """Whether an unfinished run of the same recipe stands there."""
    try:
        first = (folder / "recipe.yaml").read_text(encoding="utf-8").split("\n", 1)[0]
    except OSError:
        return False
    return resolved.fingerprint in first and not (folder / "summary.json").exists()


def unscored(folder: Path, summary: dict[str, Any], suites: Sequence[Suite]) -> list[Suite]:
    """The suites that the run has not answered, or that have changed since."""
    scores = summary.get("evaluation", {})
    return [
        suite
        for suite in suites
        if scores.get(suite.name, {}).get("digest") != suite.digest or not _predictions(folder, suite).exists()
    ]


def add_scores(
    folder: Path, summary: dict[str, Any], model: Any, tokenizer: Any, suites: Sequence[Suite], recipe: Recipe
) -> dict[str, Any]:
    """Ask the suites, write the predictions, and give the summary with the scores in it."""
    scores = dict(summary.get("evaluation", {}))
    for suite in suites:
        found = evaluate(model, tokenizer, suite, system=recipe.data.system)
        found.write(_predictions(folder, suite))
        scores[suite.name] = found.to_json()
    return {**summary, "evaluation": scores}


def trained_loss(folder: Path) -> float:
    """Mean training loss of the last logged steps of metrics.jsonl."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return float(np.mean([record["loss"] for record in records if "loss" in record][-LAST:]))


def read_run(folder: Path, summary: dict[str, Any], suites: Sequence[Suite], variant: str, seed: int | None) -> Run:
    """A run that is done, with each item's verdict."""
    right = {}
    for suite in suites:
        lines = _predictions(folder, suite).read_text(encoding="utf-8").splitlines()
        right[suite.name] = np.array([json.loads(line)["right"] for line in lines], dtype=np.float64)
    return Run(variant=variant, seed=seed, folder=folder, summary=summary, right=right)


def write_summary(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Write summary.json whole or not at all, and give it back."""
    folder.mkdir(parents=True, exist_ok=True)
    writing = folder / "summary.json.writing"
    writing.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    writing.replace(folder / "summary.json")
    return summary


def _predictions(folder: Path, suite: Suite) -> Path:
    return folder / f"predictions-{suite.name}.jsonl"
