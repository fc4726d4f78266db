# SPDX-License-Identifier: Apache-2.0
"""A study's tables as words: scores, differences and verdicts in one, costs in the other; for Markdown and terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from luthier.evaluate.significance import ALPHA
from luthier.study.comparisons import UNSEEN
from luthier.study.said import Said, said
from luthier.study.schema import BASE

if TYPE_CHECKING:
    from luthier.evaluate.statistics import Estimate
    from luthier.study.results import StudyResult
    from luthier.study.rows import Row

MB = 1 << 20
DASH = "–"
ALIKE = 1.2  # differences that could have been seen are told as one number while they are within a fifth
_LARGE = {1e18: "E", 1e15: "P", 1e12: "T", 1e9: "G", 1e6: "M"}


def headers(result: StudyResult) -> list[str]:
    """The columns of the table of scores."""
    runs = ["runs"] if _several(result) else []
    return ["variant", *runs, "score", f"Δ to {result.design.study.against}", "p", "verdict"]


def cells(result: StudyResult, row: Row) -> list[str]:
    """One variant's line in it."""
    runs = [f"{row.runs}" + (f" ({row.failed} failed)" if row.failed else "")] if _several(result) else []
    if not row.runs:
        return [row.variant, *runs, "failed", *[DASH] * 3]
    delta = "baseline" if row.delta is None else interval(row.delta, sign="+")
    return [row.variant, *runs, interval(row.score), delta, p_of(row), _verdict(result, row)]


def cost_headers(result: StudyResult) -> list[str]:
    """The columns of the table of costs."""
    flops = ["FLOPs"] if _has(result, "flops") else []
    gained = ["s/point"] if _has(result, "cost_per_point") else []
    return ["variant", "trained loss", "trainable", "seconds", "tokens/s", *flops, "state MiB", "peak MiB", *gained]


def cost_cells(result: StudyResult, row: Row) -> list[str]:
    """One variant's line in it."""
    return [
        row.variant,
        number(row.loss, "{:.3f}"),
        "0" if row.variant == BASE else number(row.trainable_parameters, "{:,.0f}"),
        number(row.seconds, "{:.1f}"),
        number(row.tokens_per_second, "{:,.0f}"),
        *([large(row.flops)] if _has(result, "flops") else []),
        number(row.state_bytes / MB, "{:,.1f}"),
        number(row.peak_memory_bytes / MB, "{:,.0f}"),
        *([number(row.cost_per_point, "{:.2f}")] if _has(result, "cost_per_point") else []),
    ]


def _several(result: StudyResult) -> bool:
    return len(result.design.study.seeds) > 1 or bool(result.failed)


def _has(result: StudyResult, name: str) -> bool:
    return any(not math.isnan(getattr(row, name)) for row in result.rows())


def _verdict(result: StudyResult, row: Row) -> str:
    """The verdict, marked where it comes from one seed.

    One seed's p leaves out what another seed would change, so its verdicts are weaker: LoRA r=64 was "worse" than r=16
    by 0.027 with seed 0 of the demo (standard error 0.010), and by 0.004 (0.012) over three.
    """
    once = len(result.design.study.seeds) == 1 and BASE not in (row.variant, result.design.study.against)
    return f"{row.verdict} (1 seed)" if once and row.verdict in ("better", "worse") else row.verdict or DASH


def estimate(value: Estimate, sign: str = "") -> str:
    """`0.352 ± 0.019`: value and standard error.

    Example:
        >>> from luthier.evaluate.statistics import Estimate
        >>> estimate(Estimate(value=-0.02, stderr=0.01), sign="+")
        '-0.020 ± 0.010'
    """
    if math.isnan(value.value):
        return DASH
    return f"{value.value:{sign}.3f} ± " + ("?" if math.isnan(value.stderr) else f"{value.stderr:.3f}")


def interval(value: Estimate, sign: str = "", digits: int = 3) -> str:
    """`0.352 [0.315, 0.389]`: value and 95 % interval.

    Example:
        >>> from luthier.evaluate.statistics import Estimate
        >>> interval(Estimate(value=-0.02, stderr=0.01, low=-0.0396, high=-0.0004), sign="+")
        '-0.020 [-0.040, -0.000]'
    """
    if math.isnan(value.value):
        return DASH
    form = f"{sign}.{digits}f"
    ends = "?" if math.isnan(value.low) else f"{value.low:{form}}, {value.high:{form}}"
    return f"{value.value:{form}} [{ends}]"


def p_of(row: Row) -> str:
    """The corrected p, as far as it says anything."""
    p = row.difference.p_holm if row.difference else math.nan
    return "<0.001" if p < 0.001 else number(p, "{:.3f}")


def number(value: float, form: str) -> str:
    """A number, or a dash for what is unknown."""
    return DASH if math.isnan(value) else form.format(value)


def large(value: float) -> str:
    """A large count with its prefix.

    Example:
        >>> large(3.21e12)
        '3.2 T'
    """
    size = next((size for size in _LARGE if value >= size), 1.0)
    return number(value / size, f"{{:.1f}} {_LARGE[size]}" if size > 1 else "{:.0f}")


def _of_score(result: StudyResult) -> Said:
    """What the score is: the share of right answers, or a task's own metric."""
    suite, items = result.suite, result.suites[result.suite]
    metric = result.metric(suite)
    if metric != "exact_match":
        return said("task_score", metric=metric, suite=suite, items=items)
    check = said("score_exact" if suite.startswith("embedded") else "score_checks")
    return said("score", suite=suite, items=items, check=check)


def captions(result: StudyResult) -> list[str]:
    """What a reader must know to read the tables rightly: one sentence each."""
    lines: list[str] = [_of_score(result)]
    lines += [_of_seeds(result), *_of_groups(result), _of_verdicts(result), *_of_contrasts(result)]
    lines += _of_extremes(result)
    lines.append(result.controlled())
    lines += result.design.notes
    lines.append(said("costs", gained=said("costs_gained") if _has(result, "cost_per_point") else ""))
    most = max((run.summary.get("runs_at_a_time", 1) for run in result.runs), default=1)
    if most > 1:
        lines.append(said("at_a_time", n=most))
    return lines


def _of_seeds(result: StudyResult) -> Said:
    seeds = list(map(str, result.design.study.seeds))
    if len(seeds) == 1:
        return said("seeds_one", seed=seeds[0])
    return said("seeds_several", n=len(seeds), seeds=seeds, rough=said("seeds_rough") if len(seeds) == 2 else "")


def _of_groups(result: StudyResult) -> list[Said]:
    numbers = result.groups(result.suite)
    return [] if numbers is None else [said("groups", units=int(numbers.max()) + 1, items=len(numbers))]


def _of_verdicts(result: StudyResult) -> Said:
    """What the verdicts mean, and what they could have shown."""
    count = sum(bool(row.verdict) for row in result.rows())
    over = said("verdicts_over", n=count) if count > 1 else ""
    return said("verdicts", alpha=f"{ALPHA:.2f}", over=over, power=_of_power(result))


def _of_power(result: StudyResult) -> str:
    """Which differences would have been seen, from the most to the least certain comparison."""
    found = _seeable(result, result.suite)
    if not found:
        return ""
    least, most = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
    if found[most] <= ALIKE * found[least]:
        return said("power", value=f"{found[most]:.3f}")
    ends = {"least": f"{found[least]:.3f}", "most": f"{found[most]:.3f}"}
    return said("power_range", **ends, least_of=least, most_of=most)


def _of_contrasts(result: StudyResult) -> list[Said]:
    """An interval is of one comparison, a verdict of all: where the two seem to disagree, say which one decides."""
    odd = [
        row.variant
        for row in result.rows()
        if row.delta and row.verdict == UNSEEN and not row.delta.low <= 0.0 <= row.delta.high
    ]
    return [said("contrasts", names=odd)] if odd else []


def _of_extremes(result: StudyResult) -> list[Said]:
    """All wrong or all right is no certainty: the interval is then the exact bound of one share."""
    names = {
        key: [row.variant for row in result.rows() if row.score.value == value]
        for key, value in (("none_right", 0.0), ("all_right", 1.0))
    }
    return [said(key, names=found) for key, found in names.items() if found]


def smallest(result: StudyResult, suite: str) -> float:
    """The smallest difference that every comparison of the table would have shown with 80 % power; NaN if unknown."""
    return max(_seeable(result, suite).values(), default=math.nan)


def _seeable(result: StudyResult, suite: str) -> dict[str, float]:
    """Variant -> the smallest difference to the baseline that would have been seen, where that is known.

    The model before training is left out where others are compared: nobody asks whether training does anything.
    """
    found = {row.variant: row.difference.smallest for row in result.rows(suite) if row.difference}
    known = {variant: value for variant, value in found.items() if not math.isnan(value)}
    return {variant: value for variant, value in known.items() if variant != BASE} or known


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
