# SPDX-License-Identifier: Apache-2.0
"""What tests of judged formats share."""

from __future__ import annotations

from luthier.core.types import Judged


def told(judged: Judged):
    """A judged row as plain lists: prompt, answers, grades."""

    def plain(turns):
        return turns if isinstance(turns, str) else [(turn.role, turn.content) for turn in turns]

    return plain(judged.prompt), [plain(answer) for answer in judged.answers], list(judged.grades)
