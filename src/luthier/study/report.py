# SPDX-License-Identifier: Apache-2.0
"""A study on disk: study.json (everything), results.json (one summary a run), results.csv, table.csv and report.md."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from luthier.study.categories import Change, forgetting, score_by_category
from luthier.study.claims import judged
from luthier.study.schema import BASE
from luthier.study.table import (
    DASH,
    captions,
    cells,
    cost_cells,
    cost_headers,
    headers,
    interval,
    machine_line,
    p_of,
)  # fmt: skip
from luthier.study.tree import tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from luthier.study.results import StudyResult

PICTURE = "<!-- picture -->"  # web puts the picture here, once it has drawn one
_COLUMNS = (
    "variant seed score score_stderr items trained_loss final_loss steps tokens scored_tokens seconds cpu_seconds "
    "tokens_per_second flops trainable_parameters total_parameters state_bytes peak_memory_bytes memory_before_bytes "
    "fingerprint error"
).split()


def write_report(result: StudyResult, conclusion: Sequence[str] = ()) -> None:
    """Write all files; each is there whole or as it was before.

    Args:
        result: What to write.
        conclusion: What stands above the table, a paragraph each.
    """
    whole = tree(result, conclusion)
    write_whole(result.folder / "study.json", json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_whole(result.folder / "results.json", json.dumps(whole["runs"], indent=2, ensure_ascii=False) + "\n")
    write_whole(result.folder / "results.csv", _runs_csv(result, whole["runs"]))
    write_whole(result.folder / "table.csv", _table_csv(whole["rows"]))
    write_whole(result.folder / "report.md", markdown(result, conclusion))


def markdown(result: StudyResult, conclusion: Sequence[str] = ()) -> str:
    """The report: conclusion, claims, tables, captions, what differs, categories, failures."""
    parts = [f"# {result.design.study.title}", *conclusion]
    if claims := judged(result):
        parts += ["## Claims", list_of(claim.sentence for claim in claims), "## Scores"]
    parts += [table(result), PICTURE, costs(result), list_of(captions(result)), f"{machine_line(result)}."]
    parts += ["## What differs", _differing(result)] if result.design.differing else []
    for suite in list(result.suites)[1:]:
        parts += [f"## {suite} ({result.suites[suite]} items)", _other_suite(result, suite)]
    parts += ["## By category", categories] if (categories := _categories(result)) else []
    parts += ["## Before and after training", changed] if (changed := _forgetting(result)) else []
    if result.failed:
        parts += ["## Failed runs", list_of(f"{run.variant}, seed {run.seed}: {run.error}" for run in result.failed)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(result: StudyResult) -> str:
    """Scores, differences and verdicts as Markdown."""
    return _grid(headers(result), [cells(result, row) for row in result.rows()])


def costs(result: StudyResult) -> str:
    """What each variant cost, as Markdown."""
    lines = [cost_cells(result, row) for row in result.rows() if row.runs and row.variant != BASE]
    return _grid(cost_headers(result), lines) if lines else ""


def _grid(names: list[str], lines: list[list[str]]) -> str:
    align = ["---", *["---:"] * (len(names) - 1)]
    rows = [names, align, *lines]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in row) + " |" for row in rows)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def list_of(lines: Iterable[str]) -> str:
    """Lines as a Markdown list."""
    return "\n".join(f"- {line}" for line in lines)


def _differing(result: StudyResult) -> str:
    variants = list(result.design.study.variants)
    lines, owned = [], []
    for key, values in result.design.differing.items():
        given = [value for value in values.values() if value is not None]
        if len(given) < len(values) and all(value == given[0] for value in given) and key != "method.name":
            owned.append(f"`{key}` = {_short(given[0])}")
        else:
            lines.append([f"`{key}`", *(DASH if values[v] is None else _short(values[v]) for v in variants)])
    grid = _grid(["key", *variants], lines) if lines else ""
    return grid + (f"\n\nNot in every method, and the same wherever it is: {', '.join(owned)}." if owned else "")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:28]}…{text[-28:]}"


def _other_suite(result: StudyResult, suite: str) -> str:
    lines = []
    for row in result.rows(suite):
        delta = "baseline" if row.delta is None else interval(row.delta, "+")
        lines.append([row.variant, interval(row.score), delta, p_of(row), row.verdict or DASH])
    return _grid(["variant", "score", f"Δ to {result.design.study.against}", "p", "verdict"], lines)


def _categories(result: StudyResult) -> str:
    """Score of each category of each suite, with its interval."""
    grids = []
    for suite in result.suites:
        found = score_by_category(result, suite)
        columns = [variant for variant in result.variants if any(variant in marks for marks in found.values())]
        lines = []
        for name, marks in found.items():
            items = len(result.categories(suite)[name])
            scored = (interval(marks[v], digits=2) if v in marks else DASH for v in columns)
            lines.append([name or "(none)", str(items), *scored])
        if lines:
            head = [f"{suite}:"] if len(result.suites) > 1 else []
            grids += [*head, _grid(["category", "items", *columns], lines)]
    return "\n\n".join(grids)


def _forgetting(result: StudyResult) -> str:
    """What training changed in each category; where nothing was lost, a sentence; nothing to lose, nothing."""
    found = forgetting(result)
    if not any(change.before.value > 0 for changes in found.values() for change in changes.values()):
        return ""
    names = [name for name in next(iter(found.values()))]
    lost = [(v, name) for name in names for v in found if name in found[v] and _delta(found[v][name]) < 0]
    if not lost:
        return "Nothing was forgotten: no variant scored below the model before training in any category."
    seen = [f"{v} in {name or '(none)'}" for v, name in lost if found[v][name].difference.verdict == "worse"]
    count = sum(len(changes) for changes in found.values())
    said = (
        f"Lost beyond chance (p ≤ 0.05 after Holm's correction over {count} comparisons): {', '.join(seen) or 'none'}."
    )
    lines = [[name or "(none)", _before(found, name), *(_change(found[v].get(name)) for v in found)] for name in names]
    return f"{said}\n\n{_grid(['category', 'before', *(f'Δ {variant}' for variant in found)], lines)}"


def _before(found: dict[str, dict[str, Change]], name: str) -> str:
    change = next(changes[name] for changes in found.values() if name in changes)
    return f"{change.before.value:.2f}"


def _change(change: Change | None) -> str:
    if change is None:
        return DASH
    marked = "**" if change.difference.verdict == "worse" else ""
    return f"{marked}{interval(change.difference.estimate, '+', digits=2)}{marked}"


def _delta(change: Change) -> float:
    return change.difference.estimate.value


def _runs_csv(result: StudyResult, runs: list[dict[str, Any]]) -> str:
    lines = []
    for run in runs:
        scored = run.get("evaluation", {}).get(result.suite, {})
        seed = "" if run["variant"] == BASE else run["seed"]
        lines.append({**run, "score_stderr": scored.get("stderr"), "items": scored.get("items"), "seed": seed})
    return _csv(_COLUMNS, lines)


def _table_csv(rows: dict[str, list[dict[str, Any]]]) -> str:
    lines = [{"suite": suite, **row} for suite, found in rows.items() for row in found]
    return _csv(list(lines[0]) if lines else ["suite"], lines)


def _csv(columns: list[str], lines: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", restval="")
    writer.writeheader()
    for line in lines:
        writer.writerow({key: "" if value is None else value for key, value in line.items()})
    return text.getvalue()


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or leave the old one."""
    writing = path.with_name(f"{path.name}.writing")
    writing.write_text(text, encoding="utf-8")
    writing.replace(path)
