# SPDX-License-Identifier: Apache-2.0
"""`objective.name` and its strength: what such rows are for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.advise.value import Advice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.advise.facts import Facts

# Rows that are read and not written -> what they hold.
READ = {
    "labelled": "texts with labels",
    "tagged": "words with tags",
    "question": "questions about contexts",
    "texts": "texts that belong together",
}
# Objective -> keys of its own: value, reason, sources.
STRENGTH: dict[str, dict[str, tuple[float, str, tuple[str, ...]]]] = {
    "dpo": {"beta": (0.1, "the paper's; the handbook's Zephyr takes 0.01, which lets it move further", ("dpo",))},
    "ipo": {"beta": (0.1, "margins are pulled to 1 / (2 beta) = 5; our study ran at 0.1", ("ipo", "study-preference"))},
    "kto": {"beta": (0.1, "the paper's; our study ran at 0.1", ("kto", "study-preference"))},
    "orpo": {"beta": (0.1, "the weight of the odds, the paper's lambda", ("orpo", "study-preference"))},
    "cpo": {"beta": (0.1, "the paper's; our study ran at 0.1", ("cpo", "study-preference"))},
    "simpo": {
        "beta": (2.0, "the paper takes 2.0 to 2.5: rewards are means per token", ("simpo",)),
        "simpo_gamma": (1.0, "the paper takes 0.3 to 1.6; our study ran at 1.0", ("simpo", "study-preference")),
    },
}


def advise(facts: Facts, _: Mapping[str, Any]) -> tuple[Advice, ...]:
    """Name the objective, and give its strength."""
    name, data = facts.objective, facts.data
    sources: tuple[str, ...]
    if data is None:
        reason, sources = "no rows were named; plain answers are for sft", ("recipe",)
    else:
        kind = "single answers with a label" if data.labelled else "judged answers" if data.judged else "answers"
        kind = "plain text" if data.text else READ.get(data.kind, kind)
        reason, sources = f"the rows hold {kind}", ("rows",)
        if name == "dpo":
            reason += "; all six preference objectives gained in our study, once each had a rate of its own"
            sources = ("rows", "study-preference")
    rows = [Advice(key="objective.name", value=name, reason=reason, sources=sources, sure="high" if data else "low")]
    for key, (value, why, who) in STRENGTH.get(name, {}).items():
        rows.append(Advice(key=f"objective.{key}", value=value, reason=why, sources=who, sure="fair"))
    return tuple(rows)
