# SPDX-License-Identifier: Apache-2.0
"""How far the runs are: which go on, which wait, which failed and why, how long it still takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.web.fill import BASE
from luthier.web.forms import DASH, count, number, seconds
from luthier.web.markup import Markup, both, foreign, joined, tag
from luthier.web.runs import STATES
from luthier.web.sections._pieces import note, table

if TYPE_CHECKING:
    from luthier.web.gather import Found
    from luthier.web.runs import Seen

_SIGNS = {"running": "▶", "failed": "✕", "stopped": "■", "unscored": "…", "done": "✓", "waiting": "○"}
_ORDER = ("running", "failed", "stopped", "unscored", "waiting", "done")
MOST = 40  # runs in the table; of more, the last ones in this order are left to the other tables


def progress(found: Found, *, live: bool) -> Markup:
    """The section; empty where everything is done and nobody watches."""
    runs = [*found.early, *found.trained]
    if not live and all(run.state == "done" for run in runs):
        return Markup("")
    runs = sorted(runs, key=lambda run: _ORDER.index(run.state))
    more = len(runs) - MOST
    runs = runs[:MOST]
    heads = ["run", "state", "steps", "last_loss_run", "left", *(["action"] if live else [])]
    rows = [_row(run, live) for run in runs]
    caption = both("progress_table")
    said = [both(f"head_{head}") for head in heads]
    rest = note("more_runs", n=more) if more > 0 else None
    lead = tag("p", summary(found), class_="count")
    return joined(lead, table(caption, said, rows, name="runs", left=(1,)), rest, _errors(runs))


def summary(found: Found) -> Markup:
    """`5 of 9 runs done, 1 running, about 3:20 min left`."""
    runs = [*found.early, *found.trained]
    counts = {state: sum(run.state == state for run in runs) for state in STATES}
    parts = [both("done_of", done=counts["done"], all=len(runs))]
    parts += [
        both(f"n_{state}", n=counts[state])
        for state in ("running", "waiting", "unscored", "stopped", "failed")
        if counts[state]
    ]
    if left := time_left(found):
        parts.append(both("about_left", time=seconds(left)))
    return joined(
        [[part, both("comma") if place < len(parts) else both("stop")] for place, part in enumerate(parts, 1)]
    )


def time_left(found: Found) -> float | None:
    """Seconds until all is done, as fast as so far: what runs, and what waits as long as a mean run took."""
    runs = [*found.early, *found.trained]
    active = [run for run in runs if run.state == "running"]
    waiting = sum(run.state == "waiting" for run in runs)
    took = [_took(run) for run in runs if run.state == "done"]
    left = [run.seconds_left for run in active]
    if not active or any(each is None for each in left):
        return None
    if waiting and not took:
        took = [sum(run.curve[-1].get("seconds", 0.0) + (run.seconds_left or 0.0) for run in active) / len(active)]
    whole = sum(each or 0.0 for each in left) + (waiting * sum(took) / len(took) if waiting else 0.0)
    return whole / len(active)


def _took(run: Seen) -> float:
    asked = sum(part.get("seconds") or 0.0 for part in (run.summary.get("evaluation") or {}).values())
    return float(run.summary.get("seconds") or 0.0) + asked


def _row(run: Seen, live: bool) -> list[Markup | str]:
    sign = tag("span", _SIGNS[run.state], aria_hidden="true")
    state = tag("td", sign, " ", both(f"state_{run.state}"), class_=f"left {run.state}")
    loss = next((line["loss"] for line in reversed(run.curve)), None)
    cells: list[Markup | str] = [run.key, state, _bar(run), number(loss), seconds(run.seconds_left)]
    if live:
        cells.append(_button(run) if run.state == "running" else tag("td", ""))
    return cells


def _bar(run: Seen) -> Markup:
    if not run.total_steps:
        return tag("td", count(run.step) if run.step else DASH)
    step = run.total_steps if run.state in ("done", "unscored") else run.step
    bar = tag("progress", value=step, max=run.total_steps, aria_label=run.key)
    return tag("td", bar, tag("span", f"{step:,} / {run.total_steps:,}"), class_="steps")


def _button(run: Seen) -> Markup:
    label = both("asked_to_stop" if run.stopping else "stop_run")
    button = tag(
        "button", label, type="button", class_="stop", data_run=run.key, id=f"stop-{run.key}", disabled=run.stopping
    )  # fmt: skip
    return tag("td", button)


def _errors(runs: list[Seen]) -> Markup | None:
    found = [run for run in runs if run.error]
    if not found:
        return None
    lines = [tag("li", tag("b", run.key), ": ", foreign(run.error)) for run in found if run.variant != BASE]
    return joined(tag("h3", both("errors")), tag("ul", lines, class_="errors"))
