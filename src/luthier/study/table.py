# SPDX-License-Identifier: Apache-2.0
"""A study's table as words: cells and captions, for Markdown, the terminal and CSV alike."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from luthier.evaluate.statistics import CLEAR
from luthier.study.schema import BASE

if TYPE_CHECKING:
    from luthier.evaluate.statistics import Estimate
    from luthier.study.results import Row, StudyResult

MB = 1 << 20
DASH = "–"


def headers(result: StudyResult) -> list[str]:
    """The table's columns."""
    several = len(result.design.study.seeds) > 1 or result.failed
    first = ["variant", *(["runs"] if several else []), "score", f"Δ to {result.design.study.against}", "verdict"]
    return [*first, "trained loss", "trainable", "seconds", "tokens/s", "state MiB", "peak MiB"]


def cells(result: StudyResult, row: Row) -> list[str]:
    """One variant's line."""
    several = len(result.design.study.seeds) > 1 or result.failed
    runs = [f"{row.runs}" + (f" ({row.failed} failed)" if row.failed else "")] if several else []
    if not row.runs:
        return [row.variant, *runs, "failed", *[DASH] * (len(headers(result)) - len(runs) - 2)]
    # One seed's error leaves out what another seed would change, so its verdicts are weaker: LoRA r=64 was "worse" than
    # r=16 by 0.027 ± 0.010 with seed 0 of the demo, and by 0.004 ± 0.012 over three.
    once = len(result.design.study.seeds) == 1 and BASE not in (row.variant, result.design.study.against)
    delta = "baseline" if row.delta is None else estimate(row.delta, sign="+")
    return [
        row.variant,
        *runs,
        estimate(row.score),
        delta,
        f"{row.verdict} (1 seed)" if once and row.verdict in ("better", "worse") else row.verdict or DASH,
        number(row.loss, "{:.3f}"),
        "0" if row.variant == BASE else number(row.trainable_parameters, "{:,.0f}"),
        number(row.seconds, "{:.1f}"),
        number(row.tokens_per_second, "{:,.0f}"),
        number(row.state_bytes / MB, "{:,.1f}"),
        number(row.peak_memory_bytes / MB, "{:,.0f}"),
    ]


def estimate(value: Estimate, sign: str = "") -> str:
    """`0.352 ± 0.019`.

    Example:
        >>> from luthier.evaluate.statistics import Estimate
        >>> estimate(Estimate(value=-0.02, stderr=0.01), sign="+")
        '-0.020 ± 0.010'
    """
    if math.isnan(value.value):
        return DASH
    return f"{value.value:{sign}.3f} ± " + ("?" if math.isnan(value.stderr) else f"{value.stderr:.3f}")


def number(value: float, form: str) -> str:
    """A number, or a dash for what is unknown."""
    return DASH if math.isnan(value) else form.format(value)


def captions(result: StudyResult) -> list[str]:
    """What a reader must know to read the table rightly: one sentence each."""
    study, items = result.design.study, result.suites[result.suite]
    seeds = ", ".join(map(str, study.seeds))
    what = "exact match" if result.suite.startswith("embedded") else "the suite's checks"
    said = [f"Score: share of right answers in {result.suite} ({items} items, {what}), greedy replies."]
    if len(study.seeds) == 1:
        said.append(
            f"One seed ({seeds}): every standard error is over the items alone and leaves out how much another seed "
            "would change the result; give seeds: [0, 1, 2] to measure it."
        )
    else:
        said.append(
            f"{len(study.seeds)} seeds ({seeds}): standard errors are over seeds and items (crossed random effects); "
            "from so few seeds they are rough themselves."
        )
    said.append(
        f"Δ is paired item by item; `no difference seen` means |Δ| < {CLEAR:.0f} standard errors, "
        "which is not a proof that there is none."
    )
    said += _of_extremes(result)
    said.append(result.controlled())
    said += result.design.notes
    said.append(
        "Trained loss: mean of the last 20 logged steps. Seconds and tokens/s: training steps alone. State: weights, "
        "gradients and optimiser state, counted. Peak: the whole process (or the GPU) while training; a process does "
        "several runs, and caches that the first ones fill stay, so compare small models by their state."
    )
    most = max((run.summary.get("runs_at_a_time", 1) for run in result.runs), default=1)
    if most > 1:
        said.append(
            f"Up to {most} runs went on at a time, so seconds and tokens/s hold what they took from each other."
        )
    return said


def _of_extremes(result: StudyResult) -> list[str]:
    """A standard error of 0 from all wrong or all right is no certainty: the rule of three bounds the share."""
    items = result.suites[result.suite]
    said = []
    for value, words in ((0.0, "no reply right"), (1.0, "every reply right")):
        if found := [row.variant for row in result.rows() if row.score.value == value]:
            bound = f"the true share is within {3 / items:.3f} of it with 95 % confidence (rule of three)"
            said.append(f"{', '.join(found)}: {words}, so the error shown is 0; {bound}.")
    return said


def machine_line(result: StudyResult) -> str:
    """Processor, numbers, seeds, items: what the times depend on."""
    done = [run.summary for run in result.runs if run.summary.get("hardware")]
    hardware: dict[str, Any] = done[0]["hardware"] if done else {}
    dtypes = sorted({str(run.summary["dtype"]) for run in result.runs if run.summary.get("dtype")})
    where = hardware.get("gpu") or hardware.get("processor") or "unknown machine"
    count = hardware.get("threads")
    threads = f", {count} thread{'s' if count > 1 else ''}" if count else ""
    seeds = ", ".join(map(str, result.design.study.seeds))
    items = " + ".join(f"{count} of {name}" for name, count in result.suites.items())
    return f"{where}{threads}; {'/'.join(dtypes) or 'dtype unknown'}; seed {seeds}; items: {items}"
