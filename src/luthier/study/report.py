# SPDX-License-Identifier: Apache-2.0
"""A study on disk: results.json (one summary a run), results.csv (the same, flat) and report.md."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from luthier.study.schema import BASE
from luthier.study.table import captions, cells, estimate, headers, machine_line

if TYPE_CHECKING:
    from pathlib import Path

    from luthier.study.results import StudyResult

PICTURE = "<!-- picture -->"  # web puts the picture here, once it has drawn one
_COLUMNS = (
    "variant seed score score_stderr items trained_loss final_loss steps tokens scored_tokens seconds cpu_seconds "
    "tokens_per_second trainable_parameters total_parameters state_bytes peak_memory_bytes memory_before_bytes "
    "fingerprint error"
).split()


def write_report(result: StudyResult, conclusion: str = "") -> None:
    """Write all three files; each is there whole or as it was before.

    Args:
        result: What to write.
        conclusion: A sentence to stand above the table.
    """
    runs = [run.to_json(result.suite) for run in result.runs]
    write_whole(result.folder / "results.json", json.dumps(runs, indent=2, ensure_ascii=False) + "\n")
    write_whole(result.folder / "results.csv", _csv(result, runs))
    write_whole(result.folder / "report.md", markdown(result, conclusion))


def markdown(result: StudyResult, conclusion: str = "") -> str:
    """The report: conclusion, table, captions, what differs, categories, failures."""
    parts = [f"# {result.design.study.title}", conclusion, table(result), PICTURE, list_of(captions(result))]
    parts += [f"{machine_line(result)}."]
    parts += ["## What differs", _differing(result)] if result.design.differing else []
    for suite in list(result.suites)[1:]:
        parts += [f"## {suite} ({result.suites[suite]} items)", _other_suite(result, suite)]
    parts += ["## By category", categories] if (categories := _categories(result)) else []
    if result.failed:
        parts += ["## Failed runs", list_of([f"{run.variant}, seed {run.seed}: {run.error}" for run in result.failed])]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(result: StudyResult) -> str:
    """The main table as Markdown."""
    return _grid(headers(result), [cells(result, row) for row in result.rows()])


def _grid(names: list[str], lines: list[list[str]]) -> str:
    align = ["---", *["---:"] * (len(names) - 1)]
    rows = [names, align, *lines]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in row) + " |" for row in rows)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def list_of(lines: list[str]) -> str:
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
            lines.append([f"`{key}`", *("–" if values[v] is None else _short(values[v]) for v in variants)])
    grid = _grid(["key", *variants], lines) if lines else ""
    return grid + (f"\n\nNot in every method, and the same wherever it is: {', '.join(owned)}." if owned else "")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:28]}…{text[-28:]}"


def _other_suite(result: StudyResult, suite: str) -> str:
    lines = []
    for row in result.rows(suite):
        delta = "baseline" if row.delta is None else estimate(row.delta, "+")
        lines.append([row.variant, estimate(row.score), delta, row.verdict or "–"])
    return _grid(["variant", "score", f"Δ to {result.design.study.against}", "verdict"], lines)


def _categories(result: StudyResult) -> str:
    """Mean score of each category over a variant's runs."""
    scores: dict[str, dict[str, list[float]]] = {}
    for run in result.runs:
        found = run.summary.get("evaluation", {}).get(result.suite, {}).get("by_category", {})
        for name, part in found.items():
            scores.setdefault(name, {}).setdefault(run.variant, []).append(part["value"])
    columns = [variant for variant in result.variants if any(variant in found for found in scores.values())]
    lines = []
    for name, found in sorted(scores.items()):
        means = {variant: sum(values) / len(values) for variant, values in found.items()}
        lines.append([name or "(none)", *(f"{means[v]:.2f}" if v in means else "–" for v in columns)])
    return _grid(["category", *columns], lines) if lines else ""


def _csv(result: StudyResult, runs: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", restval="")
    writer.writeheader()
    for run in runs:
        scored = run.get("evaluation", {}).get(result.suite, {})
        flat = {**run, "score_stderr": scored.get("stderr"), "items": scored.get("items")}
        writer.writerow({k: "" if v is None else v for k, v in flat.items()} | {"seed": _seed(run)})
    return text.getvalue()


def _seed(run: dict[str, Any]) -> Any:
    return "" if run["variant"] == BASE else run["seed"]


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or leave the old one."""
    writing = path.with_name(f"{path.name}.writing")
    writing.write_text(text, encoding="utf-8")
    writing.replace(path)
