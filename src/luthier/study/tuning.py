# SPDX-License-Identifier: Apache-2.0
"""Choosing keys such as the learning rate for each variant, on a suite that the study does not report.

The choice is a study of its own, in `tuning/` below the study's folder: every point of the grid of `tune.keys` for
every variant, over the seeds of `tune`, scored on `tune.on` alone. What was chosen stands in tuned.json.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import RunFailed
from luthier.engine.folder import write_json
from luthier.evaluate.named import name_of
from luthier.study.axes import grid
from luthier.study.design import Tuned
from luthier.study.said import Said, said

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from luthier.study.results import StudyResult
    from luthier.study.schema import Study

FOLDER = "tuning"
CHOICES = "tuned.json"


def tuning_study(study: Study) -> Study:
    """The study that chooses."""
    tune = study.tune
    assert tune is not None
    names = [name for name in study.variants if tune.variants is None or name in tune.variants]
    points = _points(study)
    variants = {f"{name}-{point}": {**study.variants[name], **keys} for name in names for point, keys in points.items()}
    changes: dict[str, Any] = {
        "variants": variants,
        "start": None,
        "seeds": tune.seeds,
        "tune": None,
        "evaluate": (tune.on,),
        "baseline": next(iter(variants)),
        "include_base": False,
        "claims": (),
        "axis": next(iter(tune.keys)),
        "title": f"{study.title}: tuning on {name_of(tune.on)}",
        "output_dir": str(Path(study.output_dir) / FOLDER),
    }
    return study.model_copy(update=changes)


def choose(study: Study, result: StudyResult) -> dict[str, Tuned]:
    """The point of the grid with the highest mean score, for each variant; the first one of equals.

    Raises:
        RunFailed: No point of a variant has a finished run.
    """
    tune = study.tune
    assert tune is not None
    points, chosen = _points(study), {}
    for name in study.variants:
        if tune.variants is not None and name not in tune.variants:
            continue
        tried: list[dict[str, Any]] = []
        for point, keys in points.items():
            row = result.row(f"{name}-{point}")
            score = None if math.isnan(row.score.value) else row.score.value
            tried.append({"values": keys, "score": score, "runs": row.runs, "failed": row.failed})
        finished = [found for found in tried if found["score"] is not None]
        if not finished:
            reasons = [run.error for run in result.failed if run.variant.removeprefix(f"{name}-") in points]
            raise RunFailed(f"study tune: {name}", f"none of {len(tried)} values has a finished run", reasons[0])
        best = max(finished, key=lambda found: found["score"])
        edge = {key: side for key, value in best["values"].items() if (side := _side(value, tune.keys[key]))}
        chosen[name] = Tuned(values=best["values"], score=best["score"], edge=edge, tried=tuple(tried))
    write_json(Path(study.output_dir) / CHOICES, {name: asdict(found) for name, found in chosen.items()})
    return chosen


def sentences(study: Study, tuned: Mapping[str, Tuned]) -> list[Said]:
    """What was chosen, for the report, the ends of the grid included."""
    tune = study.tune
    if tune is None or not tuned:
        return []
    parts, edges = [], []
    for name, found in tuned.items():
        pairs = [f"{key} = {_written(value)}" for key, value in found.values.items()]
        parts.append(said("tuned_to", name=name, pairs=pairs))
        edges += [said(f"edge_{side}", name=name, key=key) for key, side in found.edge.items()]
    lines = [said("tuned", on=name_of(tune.on), seeds=list(map(str, tune.seeds)), parts=parts)]
    return [*lines, said("tuned_edges", parts=edges)] if edges else lines


def tune_with(study: Study, run: Callable[[Study], StudyResult]) -> dict[str, Tuned]:
    """Run the study that chooses, and choose; nothing where nothing is tuned."""
    return choose(study, run(tuning_study(study))) if study.tune else {}


def _points(study: Study) -> dict[str, dict[str, Any]]:
    assert study.tune is not None
    return grid({key: list(values) for key, values in study.tune.keys.items()}, "study tune.keys")


def _side(value: Any, values: tuple[Any, ...]) -> str:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < 2 or len(numbers) < len(values):
        return ""
    return "lowest" if value == min(numbers) else "highest" if value == max(numbers) else ""


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
