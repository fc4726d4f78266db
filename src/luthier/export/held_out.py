# SPDX-License-Identifier: Apache-2.0
"""Tokens on which an export is compared with what was trained: the run's held-out rows, else short built-in texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import LuthierError, ModelError, UserError
from luthier.models.load import load_tokenizer, locate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedTokenizerBase

    from luthier.core.types import Tree
    from luthier.export.origin import Origin

MOST_ROWS, MOST_TOKENS = 64, 256  # of each row
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")

TEXTS = (
    "The lighthouse keeper counted the ships each evening and wrote their names into a book that nobody else read.",
    "Question: A baker sells 12 loaves in the morning and twice as many after noon. How many is that together?",
    "def mean(values):\n    if not values:\n        raise ValueError\n    return sum(values) / len(values)\n",
    "Water boils at a lower temperature in the mountains, because the air presses less on its surface there.",
    "Dear Ms Okafor, thank you for your letter of 3 March. The missing parts were sent today, free of charge.",
    "春天来了，河边的柳树发出新芽，孩子们在岸上放风筝。",
    "Il treno per Bologna parte alle 9:45 dal binario 7; chi arriva tardi prende quello delle 10:15.",
    '{"name": "sensor-4", "readings": [20.5, 20.7, 21.0], "unit": "C", "ok": true}',
)


def read_texts(file: Path) -> list[str]:
    """Read a text file, one text a line.

    Raises:
        UserError: It cannot be read.
    """
    try:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--texts {file}", f"cannot be read ({error})", "a UTF-8 text file", "check the path") from None


def load_words(origin: Origin) -> PreTrainedTokenizerBase | None:
    """The adapter's tokenizer, else its base's, or None where neither has one.

    Raises:
        ModelError: The adapter's is broken.
    """
    if (origin.adapter / "tokenizer.json").exists():
        return _beside(origin.adapter)
    model = origin.model
    place = Path(locate(model.model_name_or_path))
    if place.is_dir() and not any((place / name).exists() for name in TOKENIZERS):
        return None  # transformers would make an empty one from the model's type
    try:
        return load_tokenizer(model.model_name_or_path, model.model_revision, model.trust_remote_code)
    except ModelError:
        return None


def _beside(adapter: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(adapter)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        first = str(error).strip().split("\n")[0][:200]
        where, fix = f"tokenizer {adapter}", "remove tokenizer.json there to use the base's"
        raise ModelError(where, f"cannot be read ({first})", "a fast tokenizer", fix) from error


def held_out_rows(
    origin: Origin,
    tokenizer: PreTrainedTokenizerBase | None,
    vocabulary: int,
    texts: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> tuple[list[list[int]], str]:
    """Choose token rows and say where they come from.

    Args:
        origin: The adapter; its run's `data.eval` (else `data.train`) is used where it can still be read.
        tokenizer: Its tokenizer.
        vocabulary: Number of words, for a model without a tokenizer.
        texts: Use these instead.
        say: Receives one line at a time.

    Raises:
        UserError: The given texts hold no tokens, there is no tokenizer for them, or it does not fit the base.
    """
    if tokenizer is None:
        check_rows([], tokenizer, texts, vocabulary, origin)
        return no_words(vocabulary), "numbers in order (there is no tokenizer)"
    rows, label = _rows_of_run(origin, tokenizer, say) if not texts else ([], "")
    if not rows:
        label = "given texts" if texts else "built-in texts"
        chosen: Any = tokenizer(list(texts or TEXTS), truncation=True, max_length=MOST_TOKENS)["input_ids"]
        rows = [list(ids) for ids in chosen if len(ids) > 1]
    check_rows(rows, tokenizer, texts, vocabulary, origin)
    return rows, label


def check_rows(
    rows: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase | None,
    texts: Sequence[str],
    vocabulary: int,
    origin: Origin,
) -> None:
    """Refuse texts without a tokenizer, without tokens, or with tokens that the base does not have.

    Raises:
        UserError: They are.
    """
    if texts and tokenizer is None:
        raise UserError("texts", "the base has no tokenizer", "a base with tokenizer.json", "leave the texts out")
    if tokenizer is None:
        return
    if not rows:
        raise UserError("texts", "they hold no two tokens", "a few sentences", "give longer ones")
    if (largest := max(map(max, rows))) >= vocabulary:
        received = f"it makes token {largest}, the base has {vocabulary:,} words"
        fix = "give the base that was trained, with its added tokens (resize_token_embeddings)"
        raise UserError(f"tokenizer of {origin.adapter}", received, "a tokenizer that fits the base", fix)


def _rows_of_run(
    origin: Origin, tokenizer: PreTrainedTokenizerBase, say: Callable[[str], None]
) -> tuple[list[list[int]], str]:
    """Rows of `data.eval`, else of `data.train`, spread over all of them; none where they cannot be read any more."""
    from luthier.data import prepare

    if origin.recipe is None:
        return [], ""
    data = origin.recipe.data
    try:
        rows = prepare(data, tokenizer, which="eval" if data.eval else "train", say=say).rows
    except LuthierError as error:
        say(f"the run's rows cannot be read, built-in texts are used ({error})")
        return [], ""
    label = "data.eval of the run" if data.eval else "data.train of the run, which has no data.eval"
    step = max(1, len(rows) // MOST_ROWS)
    branches = [first_branch(rows.tree(number)) for number in range(0, len(rows), step)][:MOST_ROWS]
    return [branch for branch in branches if len(branch) > 1], label


def first_branch(tree: Tree, most: int = MOST_TOKENS) -> list[int]:
    """Up to `most` token ids from the root down, by the first child each time."""
    chain = [0]
    while (child := next((i for i, parent in enumerate(tree.parents) if parent == chain[-1]), None)) is not None:
        chain.append(child)
    return [int(token) for i in chain for token in tree.segments[i].ids][:most]


def no_words(vocabulary: int) -> list[list[int]]:
    """Rows that walk through the vocabulary in different steps."""
    return [[(start + i * step) % vocabulary for i in range(64)] for start, step in ((0, 1), (1, 7), (2, 31), (3, 101))]
