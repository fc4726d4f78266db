# SPDX-License-Identifier: Apache-2.0
"""From a judge's reply to its rating: FastChat's rules for `[[7]]` and `[[A]]`, and ours for BELLE's `得分: 0.8`."""

from __future__ import annotations

import re

NO_RATING = -1  # what FastChat stores for a reply without one; its tables drop such rows
_DOUBLE = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_SINGLE = re.compile(r"\[(\d+\.?\d*)\]")
_SHARE = re.compile(
    r"得分\s*[】\]*]*\s*(?:[:：为是]\s*)?[【\[*]*\s*(\d+(?:\.\d+)?)(?!\d)\s*([/\uff0f%\uff05]?)\s*(\d*(?:\.\d+)?)"
)


def rating(reply: str) -> float:
    """The first `[[number]]` of a reply, else its first `[number]`, else -1. There is no check of its range.

    Where FastChat's literal_eval raises (`[[05]]`), the number is taken.

    Reference:
        lm-sys/FastChat, fastchat/llm_judge/common.py: run_judge_single.

    Example:
        >>> rating("Clear and right. Rating: [[8]]"), rating("[7.5]"), rating("7/10")
        (8, 7.5, -1)
    """
    found = _DOUBLE.search(reply) or _SINGLE.search(reply)
    if not found:
        return NO_RATING
    return float(found[1]) if "." in found[1] else int(found[1])


def verdict(reply: str) -> str:
    """`A`, `B` or `tie`: the first of `[[A]]`, `[[B]]`, `[[C]]`, in this order, that stands anywhere; else `error`.

    Reference:
        lm-sys/FastChat, fastchat/llm_judge/common.py: run_judge_pair.

    Example:
        >>> verdict("[[B]], not [[A]]"), verdict("[[C]]"), verdict("Both are fine.")
        ('A', 'tie', 'error')
    """
    return next((name for name, mark in (("A", "[[A]]"), ("B", "[[B]]"), ("tie", "[[C]]")) if mark in reply), "error")


def share(reply: str) -> float:
    """The first number behind `得分`, where it lies between 0 and 1; else -1.

    BELLE publishes no rule: its page shows the reply to a person. `0.8分` and `1/1` are ratings; `80%`, `8/10` and `8`
    are not, since the judge then answered on another scale than the one it was told.

    Example:
        >>> share("得分: 0.8，理由：……"), share("得分：1/1"), share("得分: 8/10"), share("回答正确")
        (0.8, 1.0, -1, -1)
    """
    found = _SHARE.search(reply)
    if not found or (found[2] and (found[2] in "%\uff05" or not found[3] or float(found[3]) != 1.0)):
        return NO_RATING
    value = float(found[1])
    return value if value <= 1.0 else NO_RATING
