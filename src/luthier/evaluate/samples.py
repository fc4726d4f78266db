# SPDX-License-Identifier: Apache-2.0
"""Rows of a file as a trained model is to read them: examples, and what the format says of right answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError
from luthier.core.tasks import Labelled, Question, Tagged, Texts
from luthier.core.types import Completion, Conversation
from luthier.data.columns import told
from luthier.data.faults import RowFault, kind_of
from luthier.data.formats import classification, pairs, source_target, squad, tagged
from luthier.data.prepare import open_source
from luthier.data.source import locate
from luthier.recipe.schema import Source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
        faults: The others, each with what was wrong.
        left: Whether rows were left out because so few were wanted.
    """

    name: str
    every: tuple[Sample, ...]
    faults: tuple[tuple[str, str], ...] = ()
    left: bool = False

    @property
    def refused(self) -> Counter[str]:
        """What was wrong with rows -> how many of them."""
        return Counter(reason for _, reason in self.faults)


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
    faults: list[tuple[str, str]] = []
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
                faults.append((f"{part.label}:{number}", fault.reason))
                continue
            for example in found if isinstance(found, tuple) else (found,):
                references = _references(opening.reading, row, example)
                every.append(Sample(name=f"{part.label}:{number}", example=example, references=references))
    if not every:
        raise _none_usable(source.path, faults, "rows as the model was trained on")
    name = Path(source.path.replace(":", "-")).stem
    return Samples(name=name, every=tuple(every), faults=tuple(faults), left=left)


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
        DataError: There is no such file, or none of its rows can be used.
    """
    every, faults = [], []
    for part in locate(Source(path=path), "eval", lambda _: None):
        for number, row in part.rows():
            where = f"{part.label}:{number}"
            try:
                if isinstance(row, RowFault):
                    raise row
                every.append(Sample(name=where, example=_bare(row, kind)))
            except RowFault as fault:
                faults.append((where, str(fault)))
    if not every:
        raise _none_usable(path, faults, "texts that the model can read")
    return Samples(name=Path(path).stem, every=tuple(every), faults=tuple(faults))


def _none_usable(path: str, faults: Sequence[tuple[str, str]], allowed: str) -> DataError:
    reasons = ", ".join(dict.fromkeys(reason for _, reason in faults))
    return DataError(path, f"no row can be used ({reasons or 'it has none'})", allowed)


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
    every = []
    for name, row in ((f"text {n}", row) for n, row in enumerate(rows, 1)):
        try:
            every.append(Sample(name=name, example=_bare(row, kind)))
        except RowFault as fault:
            raise DataError(name, str(fault), "a text that is not blank", "leave it out") from None
    return Samples(name="texts", every=tuple(every))


def _bare(row: Mapping[str, Any], kind: RowKind) -> AnyExample:
    present = frozenset(row)
    if kind == "labelled":
        found = classification.find(present)
        return Labelled(
            text=_text(row, found, "text"), pair=_text(row, found, "pair") if "pair" in found else None, labels=()
        )
    if kind == "question":
        found = told(squad.COLUMNS, present)
        question, context = (_text(row, found, name) for name in ("question", "context"))
        return Question(question=question, context=context, answers=(), starts=())
    if kind == "tagged":
        name = told(tagged.COLUMNS, present).get("tokens")
        words = row[name] if name else row.get("text", row.get("sentence"))
        words = words.split() if isinstance(words, str) else words
        if words == []:
            raise RowFault("no words")
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise RowFault(f"no list of words and no text in the columns {', '.join(row)}")
        return Tagged(words=tuple(words), tags=())
    if kind == "plain":
        found = told(source_target.COLUMNS, present) | ({"source": "text"} if "text" in present else {})
        return Completion(prompt=_text(row, found, "source"), completion="")
    found = pairs.find(present)
    names: list[str] = [name for name in ("anchor", "positive", "sentence1", "sentence2") if name in found]
    if not names:
        found, names = {"text": "text" if "text" in present else "sentence"}, ["text"]
    return Texts(texts=tuple(_text(row, found, name) for name in names), grades=())


def _text(row: Mapping[str, Any], found: Mapping[str, str], name: str) -> str:
    if found.get(name) not in row:
        raise RowFault(f"no {name} among the columns {', '.join(row)}")
    value = row[found[name]]
    if not isinstance(value, str):
        raise RowFault(f"{name} is {kind_of(value)}")
    if not value.strip():
        raise RowFault(f"empty {name}")
    return value
