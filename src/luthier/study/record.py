# SPDX-License-Identifier: Apache-2.0
"""What stands in the folder of one run of a study: its summary, its predictions, and whether they still hold.

    inputs.json     the recipe's fingerprint and the hash of the files it reads, written before the run begins
    summary.json    with `inputs` in it: trained, and filed by the study

A kill at any instant leaves one of: nothing that counts, a run to go on with, or a finished run. A run that trained to
its end but was not filed is opened again and filed, not trained again.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.engine.folder import clear, finished, write_json, write_text
from luthier.evaluate.suite import evaluate
from luthier.study.results import Run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from luthier.evaluate.suite import Suite
    from luthier.recipe import Recipe, Resolved
    from luthier.study.design import Planned

MARK = "inputs.json"
LAST = 20  # logged steps that the trained loss is the mean of: one step's loss is noisy


def stored(folder: Path, wanted: dict[str, str]) -> dict[str, Any] | None:
    """The summary of a run that is done and still the same, or None."""
    try:
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return summary if all(summary.get(key) == value for key, value in wanted.items()) else None


def begin(folder: Path, wanted: dict[str, str], *, overwrite: bool) -> bool:
    """Make a folder ready for a run: whether one that was stopped goes on there; anything else of a run is removed.

    Args:
        folder: Of the run.
        wanted: Its `fingerprint` and `inputs`.
        overwrite: Begin anew in any case.
    """
    first = _first_line(folder)
    if not overwrite and wanted["fingerprint"] in first and _marked(folder) == wanted:
        return True
    # What an earlier run left goes before the mark is set: a kill between the two must not pass it off as this one's.
    if first.startswith("# luthier recipe"):
        clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MARK, wanted)
    return False


def is_done(folder: Path, wanted: dict[str, str]) -> bool:
    """Whether a finished run of the same recipe on the same files stands there."""
    return _marked(folder) == wanted and finished(folder, wanted["fingerprint"]) is not None


def places_of(study: Path, plans: Sequence[Planned]) -> dict[str, list[Path]]:
    """Fingerprint -> folders where such a run is done or will be: what was renamed, or tuned, need not run again.

    Args:
        study: The study's folder.
        plans: Its runs.
    """
    found: dict[str, list[Path]] = {}
    for file in (*study.glob("tuning/runs/*/*/summary.json"), *study.glob("runs/*/*/summary.json")):
        found.setdefault(str((stored(file.parent, {}) or {}).get("fingerprint")), []).append(file.parent)
    for planned in plans:
        folders = found.setdefault(planned.resolved.fingerprint, [])
        folders += [planned.folder] if planned.folder not in folders else []
    return {fingerprint: folders for fingerprint, folders in found.items() if len(folders) > 1}


def adopt(
    source: Path, folder: Path, resolved: Resolved, wanted: dict[str, str], suites: Sequence[Suite]
) -> dict[str, Any]:
    """Copy a finished run of the same recipe and inputs from another folder, without its checkpoints.

    Args:
        source: Where it was done.
        folder: Where it is to stand.
        resolved: Its recipe there.
        wanted: Its `fingerprint` and `inputs`.
        suites: Whose scores are kept; what a run was asked while tuning does not belong here.

    Returns:
        Its summary.
    """
    begin(folder, wanted, overwrite=True)
    kept = {"ledger.json", "metrics.jsonl", *(_predictions(folder, suite).name for suite in suites)}
    for path in source.iterdir():
        if path.is_dir() and path.name in ("adapter", "model"):
            shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
        elif path.name in kept:
            shutil.copy2(path, folder / path.name)
    write_text(folder / "recipe.yaml", resolved.to_yaml())
    summary = stored(source, wanted) or {}
    found = summary.get("evaluation", {})
    scores = {suite.name: found[suite.name] for suite in suites if suite.name in found}
    return write_summary(folder, {**summary, "name": folder.name, "evaluation": scores})


def _marked(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / MARK).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _first_line(folder: Path) -> str:
    try:
        return (folder / "recipe.yaml").read_text(encoding="utf-8").split("\n", 1)[0]
    except OSError:
        return ""


def unscored(folder: Path, summary: dict[str, Any], suites: Sequence[Suite]) -> list[Suite]:
    """The suites that the run has not answered, or that have changed since."""
    scores = summary.get("evaluation", {})
    return [
        suite
        for suite in suites
        if scores.get(suite.name, {}).get("digest") != suite.digest or not _predictions(folder, suite).exists()
    ]


def add_scores(
    folder: Path,
    summary: dict[str, Any],
    model: Any,
    tokenizer: Any,
    suites: Sequence[Suite],
    recipe: Recipe,
) -> dict[str, Any]:
    """Ask the suites, write the predictions, and give the summary with the scores in it."""
    scores = dict(summary.get("evaluation", {}))
    for suite in suites:
        found = evaluate(model, tokenizer, suite, system=recipe.data.system, folder=folder)
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
