# SPDX-License-Identifier: Apache-2.0
"""What a study's numbers allow one to say, worked out from them, with the condition under which it holds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from luthier.study.comparisons import UNSEEN
from luthier.study.roles import condition, roles
from luthier.study.said import Said, said
from luthier.study.schema import BASE
from luthier.study.table import MB, interval

if TYPE_CHECKING:
    from luthier.study.comparisons import Difference
    from luthier.study.results import StudyResult
    from luthier.study.roles import Role
    from luthier.study.rows import Row

    Pairs = dict[tuple[str, str], Difference]

NOTICEABLE = 0.1  # times and memory of single runs scatter; below a tenth nothing is claimed


def sentence(result: StudyResult) -> str:
    """Which variants were better or worse than the baseline: one sentence for any study."""
    against = result.design.study.against
    found: dict[str, list[str]] = {}
    for row in result.rows():
        if row.variant != BASE and row.verdict and row.delta:
            told = said("named", name=row.variant, number=interval(row.delta, "+"))
            found.setdefault(row.verdict, []).append(told)
    if not found:
        return ""
    order = {"better": "better", "worse": "worse", UNSEEN: "unseen", "error unknown": "unknown"}
    parts = [said(f"against_{key}", names=found[verdict]) for verdict, key in order.items() if verdict in found]
    return said("against", against=against, parts=parts)


def _compared(result: StudyResult, pairs: list[tuple[str, str]]) -> Pairs:
    """All comparisons that a conclusion speaks of, as one family."""
    wanted = list(dict.fromkeys(pairs))
    return dict(zip(wanted, result.compared(wanted), strict=True))


def methods(result: StudyResult, tuned_where: str = "") -> list[str]:
    """Compare LoRA, rsLoRA and full fine-tuning: the conclusion, what it cost, what it leaves open.

    Every outcome has its words; a part whose runs failed is left out, and said to be.

    Args:
        result: A study of such variants.
        tuned_where: What measures the methods with a learning rate tuned for each; by default the full demo.
    """
    known = [role for role in roles(result.design).values() if not math.isnan(result.score(role.variant).value)]
    scaled, topped = _scaled(known), _topped(result, known)
    found = _compared(result, [*scaled.values(), *([topped] if topped else [])])
    parts = [*_scaling(found, scaled), *(_full(found, known, topped) if topped else [])]
    under = _under(result)
    first = said("methods", under=under, parts=parts) if parts else said("methods_none", under=under)
    if result.failed:
        first = said("methods_failed", first=first, failed=len(result.failed), all=len(result.runs))
    return [line for line in (first, _cost(result, known), _limits(result, tuned_where)) if line]


def _under(result: StudyResult) -> Said:
    """The condition, to begin a sentence with."""
    count = len(result.design.study.seeds)
    seeds = said("one_seed") if count == 1 else said("several_seeds", n=count)
    return said("under", parts=[part for part in (condition(result.design), seeds) if part])


def _scaled(known: list[Role]) -> dict[int | None, tuple[str, str]]:
    """Rank -> rsLoRA and LoRA, at each rank that both have."""
    plain = {role.r: role.variant for role in known if role.method == "LoRA"}
    stable = {role.r: role.variant for role in known if role.method == "rsLoRA"}
    return {r: (stable[r], plain[r]) for r in plain if r in stable}


def _scaling(differences: Pairs, scaled: dict[int | None, tuple[str, str]]) -> list[str]:
    """rsLoRA against LoRA at each rank that both have."""
    found = {r: differences[pair] for r, pair in scaled.items()}
    if not found:
        return []
    words = {r: _word(difference) for r, difference in found.items()}
    numbers = {r: interval(difference.estimate, "+") for r, difference in found.items()}
    if len(set(words.values())) > 1:
        parts = [said(f"scaling_here_{words[r]}", r=str(r), number=numbers[r]) for r in found]
        return [said("scaling_mixed", parts=parts)]
    word = next(iter(words.values()))
    ranked = [said("at_rank", r=str(r), number=number) for r, number in numbers.items()]
    if word == "unseen":
        return [said("scaling_unseen", numbers=ranked)]
    return [said(f"scaling_{word}", everywhere="" if len(found) == 1 else said("everywhere"), numbers=ranked)]


def _topped(result: StudyResult, known: list[Role]) -> tuple[str, str] | None:
    """Full fine-tuning and the best adapter."""
    full = next((role.variant for role in known if role.method == "full"), None)
    adapters = [role for role in known if role.method in ("LoRA", "rsLoRA")]
    if full is None or not adapters:
        return None
    return full, max(adapters, key=lambda role: result.score(role.variant).value).variant


def _full(differences: Pairs, known: list[Role], pair: tuple[str, str]) -> list[str]:
    """Full fine-tuning against the best adapter, which was picked on the same items: a winner is a little lucky."""
    adapters = [role for role in known if role.method in ("LoRA", "rsLoRA")]
    best = next(role for role in adapters if role.variant == pair[1])
    picked = said("full_best", n=len(adapters), label=best.label) if len(adapters) > 1 else best.label
    lucky = said("full_lucky") if len(adapters) > 1 else ""
    number = interval(differences[pair].estimate, "+")
    return [said(f"full_{_word(differences[pair])}", best=picked, number=number, lucky=lucky)]


def _word(difference: Difference) -> str:
    """`better`, `worse` or `unseen`: how the keys of sentences end."""
    return difference.verdict if difference.verdict in ("better", "worse") else "unseen"


def _cost(result: StudyResult, known: list[Role]) -> str:
    """Time and memory of the smallest and the largest adapter against full fine-tuning, as measured."""
    full = next((role for role in known if role.method == "full"), None)
    adapters = sorted((role for role in known if role.r is not None), key=lambda role: role.r or 0)
    if full is None or not adapters:
        return ""
    reference = result.row(full.variant)
    chosen = list(dict.fromkeys((adapters[0], adapters[-1])))
    parts = [_versus(role.label, result.row(role.variant), reference) for role in chosen]
    once = said("cost_once" if len(result.design.study.seeds) == 1 else "cost_means")
    return said("cost", once=once, seconds=f"{reference.seconds:.1f}", state=_state(reference), parts=parts)


def _state(row: Row) -> str:
    return f"{row.state_bytes / MB:,.1f}"


def _versus(label: str, row: Row, reference: Row) -> Said:
    """Time and state beside the reference's; faster or slower only where wall-clock and processor time agree on it."""
    ratios = [row.seconds / reference.seconds, row.cpu_seconds / reference.cpu_seconds]
    if max(ratios) < 1 - NOTICEABLE:
        pace = said("pace_faster")
    else:
        pace = said("pace_slower" if min(ratios) > 1 + NOTICEABLE else "pace_alike")
    memory = row.state_bytes / reference.state_bytes
    need = said("need_less" if memory < 1 - NOTICEABLE else "need_more")
    need = said("need_alike") if abs(memory - 1) <= NOTICEABLE else need
    return said("cost_of", label=label, pace=pace, seconds=f"{row.seconds:.1f}", need=need, state=_state(row))


def _limits(result: StudyResult, tuned_where: str) -> Said:
    seeds = result.design.study.seeds
    count = said("limits_one", seed=seeds[0]) if len(seeds) == 1 else said("limits_several", n=len(seeds))
    return said("limits", count=count, where=tuned_where or said("limits_demo"))


def rank_curve(result: StudyResult) -> str:
    """Whether more rank helped, for LoRA and for rsLoRA."""
    known = [role for role in roles(result.design).values() if not math.isnan(result.score(role.variant).value)]
    ends = {}
    for method in ("LoRA", "rsLoRA"):
        mine = sorted((role for role in known if role.method == method), key=lambda role: role.r or 0)
        if len(mine) > 1:
            ends[method] = (mine[-1], mine[0])
    found = _compared(result, [(high.variant, low.variant) for high, low in ends.values()])
    parts = []
    for method, (high, low) in ends.items():
        difference = found[high.variant, low.variant]
        word = {"better": "gained", "worse": "lost"}.get(_word(difference), "unseen")
        number = interval(difference.estimate, "+")
        parts.append(said(f"ranks_{word}", method=method, low=str(low.r), high=str(high.r), number=number))
    return said("ranks", under=_under(result), parts=parts) if parts else ""


def rate_sweep(result: StudyResult, chosen_on: str) -> str:
    """Each method at the learning rate that a set of its own chose, and what is left of the gap.

    Args:
        result: Its first suite is reported.
        chosen_on: The suite that chooses: choosing and reporting on the same items would flatter every method.
    """
    known = [role for role in roles(result.design).values() if not math.isnan(result.score(role.variant).value)]
    best: dict[str, Role] = {}
    for role in known:
        other = best.get(role.label)
        if other is None or result.score(role.variant, chosen_on).value > result.score(other.variant, chosen_on).value:
            best[role.label] = role
    parts = []
    for label, role in best.items():
        rates = [other.rate for other in known if other.label == label]
        edge = said("rates_edge") if role.rate in (min(rates), max(rates)) else ""
        number = interval(result.score(role.variant))
        parts.append(said("rates_of", label=label, number=number, rate=f"{role.rate:g}", edge=edge))
    lines = [said("rates", on=chosen_on, parts=parts)] if parts else []
    plain = next((role for role in best.values() if role.method == "LoRA"), None)
    stable = next((role for role in best.values() if role.method == "rsLoRA"), None)
    if plain and stable:
        lines.append(_gap(result, known, plain, stable))
    return said("together", sentences=lines) if lines else ""


def _gap(result: StudyResult, known: list[Role], plain: Role, stable: Role) -> Said:
    """The gap between rsLoRA and LoRA when both are tuned, beside that at the rate the study's base recipe has.

    The reference is fixed before the runs: the widest gap of all rates would flatter the claim that it shrinks.
    """
    rate = result.design.base.recipe.optim.learning_rate
    at_base = {role.label: role.variant for role in known if role.rate == rate}
    tuned_pair, common_pair = (stable.variant, plain.variant), (at_base.get(stable.label), at_base.get(plain.label))
    if None in common_pair:
        tuned = result.compared([tuned_pair])[0]
        number = interval(tuned.estimate, "+")
        return said("gap_tuned", stable=stable.label, plain=plain.label, number=number, unseen=_unseen(tuned))
    pair = (str(common_pair[0]), str(common_pair[1]))
    found = _compared(result, [tuned_pair, pair])
    tuned, common = found[tuned_pair], found[pair]
    return said(
        "gap_shrinks" if abs(tuned.estimate.value) < abs(common.estimate.value) else "gap_stays",
        stable=stable.label,
        plain=plain.label,
        common=interval(common.estimate, "+"),
        rate=f"{rate:g}",
        tuned=interval(tuned.estimate, "+"),
        unseen=_unseen(tuned),
    )


def _unseen(difference: Difference) -> str:
    return said("gap_unseen") if difference.verdict == UNSEEN else ""


def data_curve(result: StudyResult) -> str:
    """Whether more examples helped, and where the training loss went."""
    known = [role for role in roles(result.design).values() if isinstance(role.place, int)]
    done = sorted((r for r in known if not math.isnan(result.score(r.variant).value)), key=lambda role: role.place)
    if len(done) < 2:
        return ""
    low, high = done[0], done[-1]
    difference = result.compared([(high.variant, low.variant)])[0]
    return said(
        f"data_{_word(difference)}",
        low=str(low.place),
        high=str(high.place),
        number=interval(difference.estimate, "+"),
        first=f"{result.row(low.variant).loss:.3f}",
        last=f"{result.row(high.variant).loss:.3f}",
    )
