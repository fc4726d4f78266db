# SPDX-License-Identifier: Apache-2.0
"""Runs of a study that leave their base as it is share one copy of it: which ones, and how they are done.

A shared base is loaded and proven once; runs with small steps also share forward passes (`luthier.cohort`). What
cannot share runs alone, and it is said why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.cohort import Asked, train_together
from luthier.core.errors import Interrupted
from luthier.recipe.sharing import base_of, why_alone
from luthier.study.memory import release, resident_bytes
from luthier.study.one import Trained, one, untrained
from luthier.study.record import begin

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from luthier.study.design import Planned
    from luthier.study.one import Work
    from luthier.study.results import Run

    Group = tuple[Planned, ...]

MOST = 8  # runs of a group: a kill costs what all of them have done since their last checkpoints


def share_out(plans: Sequence[Planned], at_a_time: int = 1) -> list[Group]:
    """Groups of runs that share a base, in the order of their first ones.

    Args:
        plans: The runs.
        at_a_time: How many groups go on at a time: none of them is to have nothing to do.
    """
    alike: dict[str, list[Planned]] = {}
    for planned in plans:
        recipe = planned.resolved.recipe
        key = base_of(recipe) if why_alone(recipe) is None else str(planned.folder)
        alike.setdefault(key, []).append(planned)
    groups = []
    for runs in alike.values():
        size = min(MOST, -(-len(runs) // at_a_time))
        groups += [tuple(runs[at : at + size]) for at in range(0, len(runs), size)]
    order = {str(planned.folder): place for place, planned in enumerate(plans)}
    return sorted(groups, key=lambda group: order[str(group[0].folder)])


def alone_lines(groups: Sequence[Group]) -> list[str]:
    """For each variant that cannot share its base with others, why; nothing where there is nothing to share."""
    if all(len(group) == 1 for group in groups):
        return []
    found = {}
    for planned in (group[0] for group in groups if len(group) == 1):
        why = why_alone(planned.resolved.recipe) or "no other run has its base model in the same numbers"
        found[planned.variant] = f"{planned.variant} runs alone: {why}"
    return list(found.values())


def several(work: Work, group: Group) -> Iterator[tuple[Planned, Run]]:
    """Do the runs of a group; each is scored and filed as soon as it ends.

    Raises:
        Interrupted: Ctrl-C; the runs under way were saved.
    """
    wanted = {place: untrained(work, planned) for place, planned in enumerate(group)} if len(group) > 1 else {}
    due = [place for place, found in wanted.items() if found]
    known = [group[place].resolved.fingerprint for place in due]
    # The same run under two names is done once, and taken over after that.
    twins = [] if work.overwrite else [place for n, place in enumerate(due) if known[n] in known[:n]]
    due = [place for place in due if place not in twins]
    if len(due) < 2:
        due, twins = [], []
    for place, planned in enumerate(group):
        if place not in (*due, *twins):
            yield planned, one(work, planned)
    if due:
        yield from _together(work, group, {place: wanted[place] or {} for place in due})
    for place in twins:
        yield group[place], one(work, group[place])


def _together(work: Work, group: Group, wanted: dict[int, dict[str, str]]) -> Iterator[tuple[Planned, Run]]:
    """Train some of a group at once; `wanted` says by what each one's record will be known."""
    due = list(wanted)
    release()
    held, left = resident_bytes(), list(due)
    asked = []
    for place in due:
        resume = begin(group[place].folder, wanted[place], overwrite=work.overwrite)
        asked.append(Asked(resolved=group[place].resolved, resume=resume, overwrite=not resume))
    try:
        for number, outcome in train_together(asked, say=work.say, callbacks=tuple(work.callbacks)):
            planned = group[due[number]]
            left.remove(due[number])
            yield planned, one(work, planned, Trained(outcome=outcome, held=held))
    except (Interrupted, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever it is, it is shown by the run that it belongs to
        work.say(f"training on a shared base failed ({type(error).__name__}: {error}); what is left runs alone")
        for place in left:
            yield group[place], one(work, group[place])
