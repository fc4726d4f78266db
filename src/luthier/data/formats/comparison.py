# SPDX-License-Identifier: Apache-2.0
"""Two answers and who won: PandaLM's `annotator1..3` by majority, AlpacaEval's `preference` (1, 2; 0 is a tie).

Answers: `response1` and `response2`, `output_1` and `output_2`. A tie is refused and counted: it teaches no preference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.data.columns import told
from luthier.data.faults import RowFault
from luthier.data.formats._judged import PROMPT, answer_of, judged, number_of, prompt_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.core.types import Judged

ROWS = "judged"
ANNOTATORS = ("annotator1", "annotator2", "annotator3")
COLUMNS: dict[str, tuple[str, ...]] = PROMPT | {
    "first": ("response1", "response_1", "output_1", "output1"),
    "second": ("response2", "response_2", "output_2", "output2"),
    "winner": ("preference",),
    **{name: () for name in ANNOTATORS},
}
REQUIRED = ("first", "second")


def matches(columns: frozenset[str]) -> bool:
    """Whether there is a question, two answers, and one who judged."""
    found = told(COLUMNS, columns)
    asked = "prompt" in found or "instruction" in found
    return asked and all(name in found for name in REQUIRED) and ("winner" in found or ANNOTATORS[0] in found)


def read(row: Mapping[str, Any], columns: Mapping[str, str]) -> Judged:
    """Turn one row into a pair, the winner first."""
    prompt = prompt_of(row, columns)
    if prompt is None:
        raise RowFault("no prompt and no instruction")
    votes = [_vote(row, columns[name]) for name in ("winner", *ANNOTATORS) if name in columns]
    if not votes:
        raise RowFault("nobody says which answer is better", "preference, or annotator1")
    ahead = votes.count(1) - votes.count(2)
    most = max(votes.count(1), votes.count(2))
    if not ahead or 2 * most <= len(votes):
        raise RowFault("a tie", ", ".join(map(str, votes)) if len(votes) > 1 else "")
    names = [columns[name] for name in (REQUIRED if ahead > 0 else REQUIRED[::-1])]
    return judged(prompt, [answer_of(row.get(name), name, prompt) for name in names], (1.0, 0.0))


def _vote(row: Mapping[str, Any], name: str) -> int:
    """Read who won: 1, 2, or 0 for a tie; AlpacaEval 2 weighs between 1 and 2."""
    number = number_of(row.get(name), name)
    if number != 0 and not 1 <= number <= 2:
        raise RowFault(f"{name} is neither 1, 2 nor 0", f"{number:g}")
    return 0 if number in (0, 1.5) else 1 if number < 1.5 else 2
