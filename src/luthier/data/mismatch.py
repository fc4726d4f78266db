# SPDX-License-Identifier: Apache-2.0
"""Each judged row with another row's answer beside its own: what KTO estimates its KL from.

The pair (x, y_KL) of a prompt and an answer that does not belong to it stands in for samples of the policy. Here the
answer is the first one of the next row in the order of the files; the last row takes the first row's.

Reference: Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", 2024, section 4.1.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from luthier.core.errors import DataError
from luthier.core.types import Segment

if TYPE_CHECKING:
    from luthier.core.types import Tree
    from luthier.data.rows import Array, Rows


class Mismatched:
    """Rows whose trees have one more child, with grade NaN: the first answer of the next row.

    A pure function of the rows, so a row meets the same foreign answer in each epoch, and resuming needs no state.

    Args:
        rows: Judged rows.
        max_length: Tokens of a branch at most; the foreign answer loses its end where it is longer.
        where: What a message calls the rows.

    Attributes:
        lengths: Tokens of each row's tree, the foreign answer included, int32 of shape [N].
        scored: Scored tokens of each row that train, int32 of shape [N]; those of the foreign answer do not.
        starts: As in the rows.
        judged: True.
        answers: Answers of each row, the foreign one included, int64 of shape [N].
        prompts: As in the rows.

    Raises:
        DataError: There is one row only.
    """

    def __init__(self, rows: Rows, max_length: int, where: str = "data") -> None:
        if not rows.judged:
            raise ValueError("only judged rows have answers to be mismatched")
        if len(rows) < 2:
            fix = "add rows, or set objective.loss_type: apo_zero_unpaired"
            raise DataError(where, "one row only", "another row's answer is needed to estimate the KL", fix)
        self.rows, self.room = rows, max_length - rows.prompts
        foreign = np.minimum(np.roll(rows.first_answers, -1), self.room)
        self.lengths: Array = (rows.lengths + foreign).astype(np.int32)
        self.scored, self.starts, self.judged = rows.scored, rows.starts, True
        self.answers: Array = rows.answers + 1
        self.prompts = rows.prompts

    def __len__(self) -> int:
        return len(self.rows)

    def tree(self, row: int) -> Tree:
        """Return one row with the foreign answer as its last child.

        Raises:
            IndexError: There is no such row.
        """
        own = self.rows.tree(row)
        foreign = self.rows.tree((row + 1) % len(self.rows)).segments[1]
        most = int(self.room[row])
        return replace(
            own,
            segments=(*own.segments, Segment(ids=foreign.ids[:most], scored=foreign.scored[:most])),
            parents=(*own.parents, 0),
            grades=(*own.grades, math.nan),
            scores=(*own.scores, math.nan) if own.scores else (),
        )
