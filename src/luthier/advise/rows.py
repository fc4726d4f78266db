# SPDX-License-Identifier: Apache-2.0
"""How many rows there are and how long they are: by the data layer's own reading, the first rows of large files."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from luthier.advise.facts import DataFacts
from luthier.core.errors import DataError
from luthier.data import prepare
from luthier.data.source import locate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from luthier.core.tasks import RowKind
    from luthier.data import Prepared
    from luthier.data.source import Part
    from luthier.recipe.schema import Data, Source

    Say = Callable[[str], None]

SAMPLE = 4096  # rows that are tokenised: 1.5 M tokens of instructions, seconds
READ_WHOLE = 100 << 20  # bytes of files whose rows are counted; of larger ones the number is worked out
LINES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
READ = {
    "labelled": "classification",
    "tagged": "token_classification",
    "question": "question_answering",
    "texts": "contrastive",
}
_NO_LIMIT = 1 << 24  # tokens: rows shall be seen in their full length


def look_at_rows(data: Data, tokenizer: Any, say: Say, *, kind: RowKind | None = None) -> DataFacts:
    """Tokenise the first rows of `data.train` and count the rest.

    Args:
        data: That section of a recipe.
        tokenizer: The model's.
        say: Receives a line at a time about what is read.
        kind: As in :func:`luthier.data.prepare`.

    Raises:
        DataError: A source cannot be read, or its rows cannot be used.
        RecipeError: A format or template has an unknown name.
    """
    most = max(64, SAMPLE // len(data.train))
    some = tuple(s.model_copy(update={"max_rows": min(s.max_rows or most, most)}) for s in data.train)
    whole = {"train": some, "max_length": _NO_LIMIT, "max_prompt_length": None, "truncation": "right"}
    tokenizer.model_max_length = _NO_LIMIT  # rows may be longer than the model takes: that is what is asked here
    prepared = prepare(data.model_copy(update=whole), tokenizer, which="train", kind=kind, say=say)
    rows, estimated = 0.0, False
    for source, account in zip(data.train, prepared.ledger.accounts, strict=True):
        found, sure = _count(source, locate(source, "train", lambda _: None), account.rows)
        rows += found * account.kept / max(1, account.rows) * source.weight
        estimated |= not sure
    branches = _branch_lengths(prepared)
    formats = {account.format for account in prepared.ledger.accounts}
    lengths = prepared.rows.lengths
    return DataFacts(
        rows=max(1, round(rows)),
        estimated=estimated,
        sampled=len(lengths),
        mean=float(lengths.mean()),
        median=int(np.median(branches)),
        p95=int(np.quantile(branches, 0.95, method="higher")),
        p99=int(np.quantile(branches, 0.99, method="higher")),
        longest=int(branches.max()),
        tree=int(lengths.max()),
        judged=prepared.rows.judged,
        labelled=formats == {"unpaired"},
        text=formats == {"text"},
        kind=cast("RowKind", prepared.rows.kind),
    )


def _branch_lengths(prepared: Prepared) -> np.ndarray:
    """Tokens as `max_length` counts them: of judged rows the prompt and the longest answer."""
    rows = prepared.rows
    if not rows.judged:
        return np.asarray(rows.lengths)
    trees = (rows.tree(number).segments for number in range(len(rows)))
    return np.array([len(prompt.ids) + max(len(answer.ids) for answer in answers) for prompt, *answers in trees])


def _count(source: Source, parts: Sequence[Part], sampled: int) -> tuple[float, bool]:
    """Rows of one source, and whether they were counted."""
    bytes_in_all = sum(part.size for part in parts)
    plain = all(part.label.lower().endswith(LINES) for part in parts)
    if bytes_in_all <= READ_WHOLE or not plain:
        rows = sum(1 for part in parts for _ in part.rows())
        return float(min(rows, source.max_rows or rows)), True
    of_these = sum(len(json.dumps(row, ensure_ascii=False).encode()) + 1 for _, row in islice(parts[0].rows(), sampled))
    rows = int(sampled * bytes_in_all / max(1, of_these))
    if source.max_rows and source.max_rows <= rows:
        return float(source.max_rows), True
    return float(rows), False


def objective_for(data: DataFacts) -> str:
    """The objective that such rows are commonly trained with.

    Raises:
        DataError: There is none.
    """
    if not data.rows:
        raise DataError("data", "it holds no rows", fix="give a file with rows")
    if data.kind in READ:
        return READ[data.kind]
    return "kto" if data.labelled else "dpo" if data.judged else "sft"
