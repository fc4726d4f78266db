# SPDX-License-Identifier: Apache-2.0
"""One run's folder as plain data: state, curve, summary, recipe. It may be growing, half there, or older than this."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import yaml

from luthier.engine.presence import STOP, read_presence
from luthier.recipe.fingerprint import flat

if TYPE_CHECKING:
    from pathlib import Path

STATES = ("running", "failed", "stopped", "unscored", "done", "waiting")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A run as its folder shows it.

    Attributes:
        variant: Its variant; the folder's name for a run of no study.
        seed: Its seed; None for the model before training.
        folder: Where it stands, or will stand.
        state: One of :data:`STATES`.
        summary: summary.json, or empty.
        recipe: Its recipe, as dotted keys.
        curve: The lines of metrics.jsonl that hold a loss.
        held_out: Those that hold an evaluation.
        total_steps: How long it is, where that is known.
        error: Why it failed.
        stopping: It was asked to stop and has not seen it yet.
    """

    variant: str
    seed: int | None
    folder: Path
    state: str
    summary: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    curve: tuple[dict[str, Any], ...] = ()
    held_out: tuple[dict[str, Any], ...] = ()
    total_steps: int | None = None
    error: str = ""
    stopping: bool = False

    @property
    def key(self) -> str:
        """Its name among the runs of a study."""
        return self.variant if self.seed is None else f"{self.variant}/seed-{self.seed}"

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return int(self.curve[-1]["step"]) if self.curve else 0

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far, for a run that goes on."""
        if self.state != "running" or not self.total_steps or not self.step:
            return None
        seconds = self.curve[-1].get("seconds")
        return None if not seconds else seconds / self.step * (self.total_steps - self.step)

    def of(self, key: str) -> Any:
        """A value of its recipe, or None."""
        return self.recipe.get(key)


def read_run(folder: Path, variant: str, seed: int | None, told: dict[str, Any] | None = None) -> Seen:
    """Read what is there.

    Args:
        folder: May not exist yet.
        variant: Its variant.
        seed: Its seed.
        told: Its entry of results.json, which knows why it failed.
    """
    summary = _json(folder / "summary.json")
    lines = _lines(folder / "metrics.jsonl")
    recipe = _recipe(folder / "recipe.yaml")
    presence = read_presence(folder)
    total = presence.get("total_steps") or summary.get("steps")
    error = "" if summary else str((told or {}).get("error") or _last_line(folder / "error.txt"))
    return Seen(
        variant=variant,
        seed=seed,
        folder=folder,
        state=_state(folder, summary, bool(presence.get("running")), error, of_study=told is not None),
        summary=summary,
        recipe=recipe,
        curve=tuple(line for line in lines if isinstance(line.get("loss"), int | float)),
        held_out=tuple(line for line in lines if isinstance(line.get("eval_loss"), int | float)),
        total_steps=total or recipe.get("train.max_steps"),
        error=error,
        stopping=(folder / STOP).exists(),
    )


def _state(folder: Path, summary: dict[str, Any], running: bool, error: str, *, of_study: bool) -> str:
    if running:
        return "running"
    if summary:
        return "unscored" if of_study and not summary.get("evaluation") else "done"
    if error and "go on with --resume" not in error:
        return "failed"
    return "stopped" if error or (folder / "recipe.yaml").exists() else "waiting"


def verdicts(folder: Path, suite: str) -> tuple[tuple[str, float], ...]:
    """Category and verdict (1 or 0) of each item that a run was asked; empty where it was not."""
    rows = _lines(folder / f"predictions-{suite}.jsonl")
    return tuple((str(row.get("category") or ""), float(row["right"])) for row in rows if "right" in row)


def read_json(path: Path) -> Any:
    """A JSON file, or None where there is none that is whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds keys, or nothing."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    found = read_json(path)
    return found if isinstance(found, dict) else {}


def _recipe(path: Path) -> dict[str, Any]:
    stamp = _stamp(path)
    return _recipe_at(path, stamp) if stamp else {}


@lru_cache(maxsize=2048)  # YAML takes 10 ms a recipe, and a page that is watched reads all of them every second
def _recipe_at(path: Path, _: tuple[int, int]) -> dict[str, Any]:
    return flat(read_yaml(path))


def _lines(path: Path) -> tuple[dict[str, Any], ...]:
    stamp = _stamp(path)
    return _lines_at(path, stamp) if stamp else ()


@lru_cache(maxsize=2048)
def _lines_at(path: Path, _: tuple[int, int]) -> tuple[dict[str, Any], ...]:
    """JSON lines up to the first that is not whole: the last one may still be written."""
    found = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if isinstance(row, dict):
            found.append(row)
    return tuple(found)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def _last_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    except OSError:
        return ""
