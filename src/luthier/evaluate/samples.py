# SPDX-License-Identifier: Apache-2.0
"""Rows of a file as a trained model is to read them: examples, and what the format says of right answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError
from luthier.core.tasks import Labelled, Question, Tagged, Texts
from luthier.core.types import Completion, Conversation
from luthier.data.columns import told
from luthier.data.faults import RowFault
from luthier.data.formats import classification, pairs, source_target, squad, tagged
from luthier.data.prepare import open_source
from luthier.data.source import locate
from luthier.recipe.schema import Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from luthier.core.tasks import RowKind
    from luthier.data.columns import Reading
    from luthier.data.fill import AnyExample


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A row.

    Attributes:
        name: `part:number`.
        example: What its format read.
        references: All right answers as texts, of rows that are to be written.
    """

    name: str
    example: AnyExample
    references: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The rows of one file.

    Attributes:
        name: Of the file, without its ending.
        every: In the file's order.
        refused: What was wrong with others -> how many.
        left: Whether rows were left out because so few were wanted.
    """

    name: str
    every: tuple[Sample, ...]
    refused: Counter[str] = field(default_factory=Counter)
    left: bool = False


def read_samples(source: Source, kind: RowKind | None, limit: int | None = None) -> Samples:
    """Read rows that say what is right.

    Args:
        source: A file, as in `data.eval`.
        kind: Which rows the model was trained on; None: what their columns say.
        limit: Only the first so many.

    Raises:
        DataError: There is no such file, its rows are of another kind, or none can be used.
    """
    opening = open_source(source, "eval", kind, lambda _: None)
    refused: Counter[str] = Counter()
    every: list[Sample] = []
    left = False
    most = min((count for count in (limit, source.max_rows) if count is not None), default=None)
    for part in opening.parts:
        for number, row in part.rows():
            if most is not None and len(every) >= most:
                left = most == limit
                break
            try:
                if isinstance(row, RowFault):
                    raise row
                found = opening.reading.read(row, opening.reading.columns)
            except RowFault as fault:
                refused[fault.reason] += 1
                continue
            for example in found if isinstance(found, tuple) else (found,):
                references = _references(opening.reading, row, example)
                every.append(Sample(name=f"{part.label}:{number}", example=example, references=references))
    if not every:
        received = f"no row can be used ({', '.join(refused) or 'it has none'})"
        raise DataError(source.path, received, "rows as the model was trained on")
    name = Path(source.path.replace(":", "-")).stem
    return Samples(name=name, every=tuple(every), refused=refused, left=left)


def _references(reading: Reading, row: Mapping[str, Any], example: AnyExample) -> tuple[str, ...]:
    if reading.references is not None:
        return reading.references(row, reading.columns)
    if isinstance(example, Conversation):
        return (example.messages[-1].content,)
    return (example.completion,) if isinstance(example, Completion) else ()


def bare_samples(path: str, kind: RowKind) -> Samples:
    """Read rows that say nothing of what is right: texts, words, questions, to be labelled or answered.

    Args:
        path: A file whose columns have the usual names of such rows; a .txt file has a text a line.
        kind: Which rows the model was trained on.

    Raises:
        DataError: There is no such file, or a row lacks a column.
    """
    every = []
    for part in locate(Source(path=path), "eval", lambda _: None):
        for number, row in part.rows():
            where = f"{part.label}:{number}"
            if isinstance(row, RowFault):
                raise DataError(where, str(row), "a row that can be read", "mend the file")
            every.append(Sample(name=where, example=_bare(row, kind, where)))
    return Samples(name=Path(path).stem, every=tuple(every))


def typed_samples(texts: Sequence[str], beside: str | None, kind: RowKind) -> Samples:
    """The texts of a command line.

    Args:
        texts: Texts, or questions.
        beside: The second text of each, or the context that answers them.
        kind: Which rows the model was trained on.

    Raises:
        DataError: A question without a context, or a second text where there is none.
    """
    rows: list[dict[str, Any]] = [{"text": text} for text in texts]
    if kind == "question":
        if beside is None:
            raise DataError("--context", "missing", "the text that answers the questions", "write --context TEXT")
        rows = [{"question": text, "context": beside} for text in texts]
    elif kind == "labelled" and beside is not None:
        rows = [{"text": text, "pair": beside} for text in texts]
    elif beside is not None:
        raise DataError("--context", "given", "only questions and pairs of texts have one", "leave it out")
    elif kind == "texts":  # one row: each is compared with the first
        example = Texts(texts=tuple(texts), grades=())
        return Samples(name="texts", every=(Sample(name="texts", example=example),))
    every = [Sample(name=f"text {n}", example=_bare(row, kind, f"text {n}")) for n, row in enumerate(rows, 1)]
    return Samples(name="texts", every=tuple(every))


def _bare(row: Mapping[str, Any], kind: RowKind, where: str) -> AnyExample:
    present = frozenset(row)
    if kind == "labelled":
        found = classification.find(present)
        text, pair = _text(row, found, "text", where), _text(row, found, "pair", where) if "pair" in found else None
        return Labelled(text=text, pair=pair, labels=())
    if kind == "question":
        found = told(squad.COLUMNS, present)
        question, context = (_text(row, found, name, where) for name in ("question", "context"))
        return Question(question=question, context=context, answers=(), starts=())
    if kind == "tagged":
        name = told(tagged.COLUMNS, present).get("tokens")
        words = row[name] if name else row.get("text", row.get("sentence"))
        words = words.split() if isinstance(words, str) else words
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise DataError(
                where, f"columns {', '.join(row)}", "tokens (a list of words), or text", "name the column so"
            )
        return Tagged(words=tuple(words), tags=())
    if kind == "plain":
        found = told(source_target.COLUMNS, present) | ({"source": "text"} if "text" in present else {})
        return Completion(prompt=_text(row, found, "source", where), completion="")
    texts = tuple(_texts(row))
    if not texts:
        raise DataError(where, f"columns {', '.join(row)}", "text, or sentence1 and sentence2", "name the column so")
    return Texts(texts=texts, grades=())


def _texts(row: Mapping[str, Any]) -> Iterator[str]:
    found = pairs.find(frozenset(row))
    names = [found[name] for name in ("anchor", "positive", "sentence1", "sentence2") if name in found]
    for name in names or ["text", "sentence"]:
        if isinstance(row.get(name), str):
            yield row[name]


def _text(row: Mapping[str, Any], found: Mapping[str, str], name: str, where: str) -> str:
    value = row.get(found[name]) if name in found else None
    if not isinstance(value, str) or not value.strip():
        raise DataError(where, f"no {name} (columns {', '.join(row)})", f"a text called {name}", "name the column so")
    return value
