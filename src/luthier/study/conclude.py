# SPDX-License-Identifier: Apache-2.0
"""What a study's numbers allow one to say, worked out from them, with the condition under which it holds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from luthier.study.comparisons import UNSEEN
from luthier.study.roles import condition, roles
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
            found.setdefault(row.verdict, []).append(f"{row.variant} ({interval(row.delta, '+')})")
    if not found:
        return ""
    order = ("better", "worse", UNSEEN, "error unknown")
    parts = [f"{verdict}: {', '.join(found[verdict])}" for verdict in order if verdict in found]
    return f"Against {against}: {'; '.join(parts)}."


def _compared(result: StudyResult, pairs: list[tuple[str, str]]) -> Pairs:
    """All comparisons that a conclusion speaks of, as one family."""
    wanted = list(dict.fromkeys(pairs))
    return dict(zip(wanted, result.compared(wanted), strict=True))


def methods(result: StudyResult, tuned_where: str = "`luthier demo --full`") -> list[str]:
    """Compare LoRA, rsLoRA and full fine-tuning: the conclusion, what it cost, what it leaves open.

    Every outcome has its words; a part whose runs failed is left out, and said to be.

    Args:
        result: A study of such variants.
        tuned_where: What measures the methods with a learning rate tuned for each.
    """
    known = [role for role in roles(result.design).values() if not math.isnan(result.score(role.variant).value)]
    scaled, topped = _scaled(known), _topped(result, known)
    found = _compared(result, [*scaled.values(), *([topped] if topped else [])])
    parts = [*_scaling(found, scaled), *(_full(found, known, topped) if topped else [])]
    said = _under(result)
    first = f"{said}, {'; '.join(parts)}." if parts else f"{said}, nothing can be compared: too few runs finished."
    if result.failed:
        first += f" {len(result.failed)} of {len(result.runs)} runs failed and are left out."
    return [line for line in (first, _cost(result, known), _limits(result, tuned_where)) if line]


def _under(result: StudyResult) -> str:
    """The condition, to begin a sentence with."""
    seeds = len(result.design.study.seeds)
    said = ", ".join(filter(None, (condition(result.design), "with one seed" if seeds == 1 else f"over {seeds} seeds")))
    return said[:1].upper() + said[1:]


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
    words = {r: _word(difference, "better", "worse") for r, difference in found.items()}
    numbers = {r: f"r={r}: {interval(difference.estimate, '+')}" for r, difference in found.items()}
    if set(words.values()) == {"better"}:
        return [f"rsLoRA scored better than LoRA{_everywhere(found)} ({', '.join(numbers.values())})"]
    if set(words.values()) == {"worse"}:
        return [f"rsLoRA scored worse than LoRA{_everywhere(found)} ({', '.join(numbers.values())})"]
    if set(words.values()) == {UNSEEN}:
        return [f"no difference between rsLoRA and LoRA was seen ({', '.join(numbers.values())})"]
    return ["rsLoRA against LoRA: " + ", ".join(f"{words[r]} at {numbers[r]}" for r in found)]


def _everywhere(found: dict[int | None, Difference]) -> str:
    return "" if len(found) == 1 else " at every rank tried"


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
    word = _word(differences[pair], "better", "worse")
    picked = f"the best of {len(adapters)} adapters, {best.label}" if len(adapters) > 1 else best.label
    lucky = "; picked on these same items, which flatters it" if len(adapters) > 1 else ""
    numbers = f"({interval(differences[pair].estimate, '+')}{lucky})"
    if word == UNSEEN:
        return [f"no difference between full fine-tuning and {picked} was seen {numbers}"]
    return [f"full fine-tuning scored {word} than {picked} {numbers}"]


def _word(difference: Difference, better: str, worse: str) -> str:
    return {"better": better, "worse": worse}.get(difference.verdict, UNSEEN)


def _cost(result: StudyResult, known: list[Role]) -> str:
    """Time and memory of the smallest and the largest adapter against full fine-tuning, as measured."""
    full = next((role for role in known if role.method == "full"), None)
    adapters = sorted((role for role in known if role.r is not None), key=lambda role: role.r or 0)
    if full is None or not adapters:
        return ""
    reference = result.row(full.variant)
    chosen = list(dict.fromkeys((adapters[0], adapters[-1])))
    parts = [f"{role.label} {_versus(result.row(role.variant), reference)}" for role in chosen]
    once = "single timings" if len(result.design.study.seeds) == 1 else "means over the seeds"
    return (
        f"Cost here ({once}): full fine-tuning took {reference.seconds:.1f} s and {reference.state_bytes / MB:,.1f} "
        f"MiB of training state; {'; '.join(parts)}."
    )


def _versus(row: Row, reference: Row) -> str:
    """Time and state beside the reference's; faster or slower only where wall-clock and processor time agree on it."""
    ratios = [row.seconds / reference.seconds, row.cpu_seconds / reference.cpu_seconds]
    if max(ratios) < 1 - NOTICEABLE:
        pace = "was faster"
    else:
        pace = "was slower" if min(ratios) > 1 + NOTICEABLE else "was not clearly faster or slower"
    memory = row.state_bytes / reference.state_bytes
    need = "took less state" if memory < 1 - NOTICEABLE else "took more state"
    need = "took about as much state" if abs(memory - 1) <= NOTICEABLE else need
    return f"{pace} ({row.seconds:.1f} s) and {need} ({row.state_bytes / MB:,.1f} MiB)"


def _limits(result: StudyResult, tuned_where: str) -> str:
    seeds = result.design.study.seeds
    count = f"One seed ({seeds[0]}) was" if len(seeds) == 1 else f"{len(seeds)} seeds were"
    return (
        f"{count} used, and one small base model. In our own runs the gap between LoRA and rsLoRA shrank once the "
        "learning rate was tuned for each method, so nothing here says which is better when each is tuned "
        f"({tuned_where} measures it)."
    )


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
        word = _word(difference, "gained", "lost")
        word = "showed no difference" if word == UNSEEN else word
        parts.append(f"{method} {word} from r={low.r} to r={high.r} ({interval(difference.estimate, '+')})")
    return f"{_under(result)}, {' and '.join(parts)}." if parts else ""


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
        edge = ", at the edge of the rates tried" if role.rate in (min(rates), max(rates)) else ""
        parts.append(f"{label} {interval(result.score(role.variant))} (at {role.rate:g}{edge})")
    said = [f"With the learning rate of each method chosen on {chosen_on}: {', '.join(parts)}."] if parts else []
    plain = next((role for role in best.values() if role.method == "LoRA"), None)
    stable = next((role for role in best.values() if role.method == "rsLoRA"), None)
    if plain and stable:
        said.append(_gap(result, known, plain, stable))
    return " ".join(said)


def _gap(result: StudyResult, known: list[Role], plain: Role, stable: Role) -> str:
    """The gap between rsLoRA and LoRA when both are tuned, beside that at the rate the study's base recipe has.

    The reference is fixed before the runs: the widest gap of all rates would flatter the claim that it shrinks.
    """
    rate = result.design.base.recipe.optim.learning_rate
    at_base = {role.label: role.variant for role in known if role.rate == rate}
    tuned_pair, common_pair = (stable.variant, plain.variant), (at_base.get(stable.label), at_base.get(plain.label))
    if None in common_pair:
        tuned = result.compared([tuned_pair])[0]
        return f"{stable.label} minus {plain.label}, each tuned: {interval(tuned.estimate, '+')}{_unseen(tuned)}."
    pair = (str(common_pair[0]), str(common_pair[1]))
    found = _compared(result, [tuned_pair, pair])
    tuned, common = found[tuned_pair], found[pair]
    change = "shrinks" if abs(tuned.estimate.value) < abs(common.estimate.value) else "does not shrink"
    return (
        f"The gap between {stable.label} and {plain.label} {change}: {interval(common.estimate, '+')} at the same rate "
        f"of {rate:g}, {interval(tuned.estimate, '+')} when each is tuned{_unseen(tuned)}."
    )


def _unseen(difference: Difference) -> str:
    return f", {UNSEEN}" if difference.verdict == UNSEEN else ""


def data_curve(result: StudyResult) -> str:
    """Whether more examples helped, and where the training loss went."""
    known = [role for role in roles(result.design).values() if isinstance(role.place, int)]
    done = sorted((r for r in known if not math.isnan(result.score(r.variant).value)), key=lambda role: role.place)
    if len(done) < 2:
        return ""
    low, high = done[0], done[-1]
    difference = result.compared([(high.variant, low.variant)])[0]
    word = _word(difference, "more examples helped", "more examples hurt")
    losses = f"{result.row(low.variant).loss:.3f} to {result.row(high.variant).loss:.3f}"
    return (
        f"From {low.place} to {high.place} examples in the same number of steps: {word} "
        f"({interval(difference.estimate, '+')}), while the training loss went from {losses}."
    )
