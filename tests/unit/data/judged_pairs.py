# SPDX-License-Identifier: Apache-2.0
"""What tests of judged rows share."""

from __future__ import annotations

PAIRS = [
    {"instruction": f"What is {i} + 2?" + " Think" * (i % 3), "chosen": f"It is {i + 2}.", "rejected": "No" + "!" * i}
    for i in range(9)
]


def flat(tree):
    """A tree as lists, which can be compared."""
    parts = [(segment.ids.tolist(), segment.scored.tolist()) for segment in tree.segments]
    return tree.row, parts, tree.parents, [str(grade) for grade in tree.grades], tree.scores
