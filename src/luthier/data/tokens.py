# SPDX-License-Identifier: Apache-2.0
"""Text and scored characters -> token ids and scored tokens.

A token is scored if it covers a scored character. Ends are always trained: where an example does not close with an
end-of-turn token, the tokenizer's eos_token is appended and scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.data.faults import RowFault

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from luthier.data.render import Rendered
    from luthier.data.vocabulary import Vocabulary

TWO_BOS = "two BOS tokens at the start"
NO_SCORED = "no scored token"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """One example as tokens.

    Attributes:
        ids: int32 of shape [L].
        scored: bool of shape [L]; never the first token, which nothing predicts.
        closed: Whether the example needs an end-of-turn token, and has one that is scored.
    """

    ids: npt.NDArray[np.int32]
    scored: npt.NDArray[np.bool_]
    closed: bool


def encode(vocabulary: Vocabulary, texts: Sequence[Rendered | RowFault]) -> list[Tokens | RowFault]:
    """Tokenise many texts at once, on all cores.

    Args:
        vocabulary: The tokenizer.
        texts: What to tokenise; faults are passed through.

    Returns:
        Tokens or faults, in the same order.
    """
    found: list[Tokens | RowFault | None] = [text if isinstance(text, RowFault) else None for text in texts]
    for templated in (True, False):
        places = [i for i, text in enumerate(texts) if not isinstance(text, RowFault) and text.templated is templated]
        group = [texts[i] for i in places]
        for place, item, encoding in zip(places, group, _encodings(vocabulary, group, templated), strict=True):
            assert not isinstance(item, RowFault)
            found[place] = encoding if isinstance(encoding, RowFault) else _marked(vocabulary, item, encoding)
    return [item for item in found if item is not None]


def _encodings(vocabulary: Vocabulary, group: Sequence[Any], templated: bool) -> list[Any]:
    texts = [item.text for item in group]
    try:
        found: list[Any] = vocabulary.backend.encode_batch(texts, add_special_tokens=not templated)
    except (TypeError, UnicodeEncodeError):  # a lone surrogate, as in the JSON escape \ud83d without its other half
        if len(texts) == 1:
            return [RowFault("text that is not Unicode (half of a surrogate pair)")]
        return [_encodings(vocabulary, [item], templated)[0] for item in group]
    return found


def _marked(vocabulary: Vocabulary, item: Rendered, encoding: Any) -> Tokens | RowFault:
    """Mark the scored tokens of one encoded text and close it."""
    ids: list[int] = encoding.ids
    if len(ids) > 1 and ids[0] == ids[1] == vocabulary.bos:
        return RowFault(TWO_BOS, f"{vocabulary.name(vocabulary.bos)} twice")
    scored = np.zeros(len(ids) + 1, bool)
    begin = stop = 0
    for start, end in item.spans:
        begin, stop = _covered(encoding, start, end, len(item.text), len(ids))
        # a template may put the eos_token behind every turn but the last, so prefix rendering does not see it
        if item.templated and stop < len(ids) and ids[stop] == vocabulary.eos and ids[stop - 1] not in vocabulary.ends:
            stop += 1
        scored[begin:stop] = True
    closed = False
    if item.ends and item.spans:
        ends = vocabulary.ends if item.templated else {vocabulary.eos}
        closed = stop > begin and ids[stop - 1] in ends
        if not closed and vocabulary.eos is not None:
            scored[begin:] = True  # with what stands between the answer and its end: the model must write that too
            ids = [*ids, vocabulary.eos]
            closed = True
    scored[0] = False
    return Tokens(ids=np.array(ids, np.int32), scored=scored[: len(ids)], closed=closed)


def _covered(encoding: Any, start: int, end: int, length: int, count: int) -> tuple[int, int]:
    """Return the tokens, from and to, that cover the characters from ``start`` to ``end``.

    ``char_to_token`` is a search in Rust, 15 times cheaper than all offsets as Python tuples; it knows no answer for
    a character that no token covers, such as white space that the tokenizer trims off.
    """
    first = encoding.char_to_token(start) if start < end else None
    after = count if end >= length else encoding.char_to_token(end)
    if first is not None and after is not None:
        straddles = after < count and encoding.token_to_chars(after)[0] < end
        return first, after + straddles
    begins, ends = np.array(encoding.offsets, np.int64).reshape(-1, 2).T  # each of shape [L]
    # white space that is trimmed off has no width left; it stands where it ended
    places = np.flatnonzero((ends > start) & ((begins < end) | ((begins == ends) & (ends <= end))))
    if not len(places):
        return count, count
    return int(places[0]), count if end >= length else int(places[-1]) + 1
