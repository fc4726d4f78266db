# SPDX-License-Identifier: Apache-2.0
"""What came out, in a sentence, and the study's own words below it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.web.fill import BASE
from luthier.web.forms import count, ends, interval, known, number, seconds, signed
from luthier.web.markup import Markup, both, joined, tag, told
from luthier.web.sections._pieces import note

if TYPE_CHECKING:
    from luthier.web.gather import Found, Line


def verdict(found: Found) -> Markup:
    """The section."""
    if found.alone:
        return _of_run(found)
    rows = [row for row in found.rows.get(found.suite, []) if row["variant"] not in (BASE, found.baseline)]
    judged = [row for row in rows if row.get("verdict") and known(row.get("delta"))]
    lead = tag("p", _sentence(found, judged), class_="lead")
    own = [tag("p", told(line)) for line in found.said if not _is_plain(line)]
    smallest = found.smallest.get(found.suite)
    waits = not found.whole and any(run.state in ("running", "waiting", "unscored") for run in found.runs)
    return joined(
        lead,
        own,
        note("smallest", value=number(smallest)) if known(smallest) else None,
        note("condition") if judged else None,
        note("provisional") if waits else None,
    )


def _is_plain(line: Line) -> bool:
    """Whether it is the sentence that any study has: it says what the first one here does."""
    return line.startswith("Against ") if isinstance(line, str) else line.get("key") == "against"


def _sentence(found: Found, judged: list[dict[str, Any]]) -> Markup:
    if not judged:
        return both("verdict_none")
    sides = {
        word: [row for row in judged if row["verdict"] == word]
        for word in ("better", "worse", "no difference seen", "error unknown")
    }
    parts = [
        both(key, n=len(rows), all=len(judged), names=_names(rows))
        for key, rows in zip(("n_better", "n_worse", "n_same", "n_unknown"), sides.values(), strict=True)
        if rows
    ]
    said = [both("against", name=tag("b", found.baseline)), _listed(parts)]
    gains = sides["better"] or sides["worse"]
    if gains:
        best = max(gains, key=lambda row: abs(row["delta"]))
        reach = interval(best, "delta")
        said.append(
            both("largest", name=tag("b", best["variant"]), delta=tag("b", signed(best["delta"])),
                 reach=ends(*reach, sign=True) if reach else "?")
        )  # fmt: skip
    return joined(said)


def _names(rows: list[dict[str, Any]]) -> Markup:
    """Up to four names; more are in the table."""
    names = [tag("b", row["variant"]) for row in rows]
    return both("names", names=Markup(", ".join(names))) if len(names) <= 4 else Markup("")


def _listed(parts: list[Markup]) -> Markup:
    return joined([[part, both("stop" if place == len(parts) else "comma")] for place, part in enumerate(parts, 1)])


def _of_run(found: Found) -> Markup:
    """One run: where it is, what it cost, its summary."""
    run = found.runs[0]
    summary = run.summary
    if not summary:
        at = both("run_at", state=both(f"state_{run.state}"), step=count(run.step), steps=count(run.total_steps))
        return tag("p", at, class_="lead")
    lead = both(
        "run_done", steps=count(summary.get("steps")), tokens=count(summary.get("tokens")),
        time=seconds(summary.get("seconds")), loss=number(summary.get("final_loss"), 4),
    )  # fmt: skip
    scores = [
        tag("p", both("run_score", suite=suite, score=number(value["value"]), items=count(value.get("items"))))
        for suite, value in (summary.get("evaluation") or {}).items()
        if known(value.get("value"))
    ]
    return joined(tag("p", lead, class_="lead"), scores)
