# SPDX-License-Identifier: Apache-2.0
"""Text -> words, where Chinese and other scripts without spaces give characters."""

from __future__ import annotations

import re

# Han with its extensions, kana, Thai, Lao, Khmer, Myanmar: written without spaces between words.
_SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ffff"
)
_WORD = re.compile(f"[{_SPACELESS}]|[^\\W_{_SPACELESS}]+")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ffff]")


def words(text: str) -> list[str]:
    """Lower-case words of letters and digits; of scripts without spaces, characters.

    Example:
        >>> words("Don't panic: 42!"), words("北京 is 3点")
        (['don', 't', 'panic', '42'], ['北', '京', 'is', '3', '点'])
    """
    return _WORD.findall(text.lower())


def is_chinese(text: str) -> bool:
    """Whether more than half of its letters and digits are Chinese characters."""
    letters = [sign for sign in text if sign.isalnum()]
    return 2 * len(_HAN.findall(text)) > len(letters) > 0
