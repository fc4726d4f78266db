# SPDX-License-Identifier: Apache-2.0
"""From the column names of a file to the format that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from luthier.core import registry
from luthier.core.errors import DataError, did_you_mean
from luthier.data.faults import RowFault, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from luthier.core.tasks import Labelled, Question, RowKind, Tagged, Texts
    from luthier.core.types import Example, Judged

KIND = "data.formats"

#: Columns that say a row is for another objective: training on `messages` of a row with a `label` would also
#: train on the answers labelled bad. A format that is named in the recipe is not held back by them.
OTHER_OBJECTIVES = frozenset(
    {
        *("chosen", "rejected", "chosen_messages", "rejected_messages", "response_j", "response_k"),
        *("label", "labels", "kto_tag"),
    }
)
FOR: dict[RowKind, str] = {
    "plain": "objective sft, whose rows hold what is to be written",
    "judged": "preference objectives (dpo, orpo, kto, reward and the like), whose rows hold answers with a grade",
    "labelled": "objective classification, whose rows hold a text and its label",
    "tagged": "objective token_classification, whose rows hold words and their tags",
    "question": "objective question_answering, whose rows hold a question, a context and an answer in it",
    "texts": "objectives contrastive and cosine, whose rows hold texts that belong together",
}


Read: TypeAlias = "Example | Judged | tuple[Judged, ...] | Labelled | Tagged | Question | Texts"


class Format(Protocol):
    """What a file in ``data/formats`` defines.

    Attributes:
        COLUMNS: The format's own name of each column -> the other names it goes by.
        REQUIRED: The columns that must be there.

    It may also define `ROWS`, the kind of its rows (`core.tasks.RowKind`), without which they are plain;
    `find(present)`, the columns that it reads among those that are there, where :func:`told` does not know all; and
    `references(row, columns)`, all right answers of a row of which one alone trains.
    """

    COLUMNS: Mapping[str, tuple[str, ...]]
    REQUIRED: tuple[str, ...]

    def matches(self, columns: frozenset[str]) -> bool:
        """Whether these column names are this format's, beyond doubt."""

    def read(self, row: Mapping[str, Any], columns: Mapping[str, str]) -> Read:
        """Turn one row into an example, or into several where a row holds them (a tree of messages).

        Args:
            row: Column name in the file -> value.
            columns: The format's own name -> the name in the file.

        Raises:
            RowFault: The row cannot be used.
        """


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the rows of one source are read.

    Attributes:
        format: Key of the format.
        columns: The format's own name -> the name in the file, for the columns that are used.
        unused: Columns of the file that nothing reads.
        kind: Which rows it gives.
        read: The format's reader.
        references: All right answers of a row, where the format knows several.
    """

    format: str
    columns: dict[str, str]
    unused: tuple[str, ...]
    kind: RowKind
    read: Callable[[Mapping[str, Any], Mapping[str, str]], Read]
    references: Callable[[Mapping[str, Any], Mapping[str, str]], tuple[str, ...]] | None = None


def told(columns: Mapping[str, tuple[str, ...]], present: frozenset[str]) -> dict[str, str]:
    """Find each column under its own name or, where only one of them is there, under another one.

    Example:
        >>> told({"output": ("response", "answer")}, frozenset({"answer", "id"}))
        {'output': 'answer'}
        >>> told({"output": ("response", "answer")}, frozenset({"answer", "response"}))
        {}
    """
    found = {}
    for own, others in columns.items():
        here = [own] if own in present else [name for name in others if name in present]
        if len(here) == 1:
            found[own] = here[0]
    return found


def text_of(row: Mapping[str, Any], columns: Mapping[str, str], name: str, *, required: bool = False) -> str:
    """Return the text in a column.

    Args:
        row: Column name in the file -> value.
        columns: The format's own name -> the name in the file.
        name: The format's own name.
        required: Whether the row must have it; otherwise a missing column or null is an empty text.

    Raises:
        RowFault: It is missing though required, or no text.
    """
    given = columns.get(name)
    value = row.get(given) if given is not None else None
    if value is None:
        if required:
            raise RowFault(f"no column {given or name}" if given not in row else f"{given} is null")
        return ""
    if not isinstance(value, str):
        raise RowFault(f"{given} is not text", kind_of(value))
    return value


def choose(
    where: str,
    name: str,
    renamed: Mapping[str, str],
    present: Sequence[str],
    refused_at: str = "data",
    *,
    kind: RowKind | None = "plain",
) -> Reading:
    """Choose the format of a source.

    Args:
        where: The file, for messages.
        name: Key of a format, or ``auto``.
        renamed: The recipe's ``columns``: the format's own name -> the name in the file.
        present: Columns of the first rows, in their order.
        refused_at: The recipe key to name where ``name`` is unknown.
        kind: Which rows the objective takes; None takes any, and rows to be written before others.

    Raises:
        DataError: No format or more than one fits, its rows are for other objectives, or ``renamed`` names a column
            that is not there.
    """
    for own, given in renamed.items():
        if given not in present and given.partition(".")[0] not in present:
            _by_place(where, own, given, present)
            raise DataError(f"{where}, columns.{own}", f"there is no column {given!r}", did_you_mean(given, present))
    back = {given: own for own, given in renamed.items()}
    # a column that goes by another one's name, as in {output: better} beside an `output`, is not used
    seen = frozenset(back.get(column, column) for column in present if column in back or column not in renamed)
    seen |= {own for own, given in renamed.items() if given not in present}  # inside a column, as in translation.en
    key = _detect(where, seen, present, kind) if name == "auto" else name
    entry = cast("Format", registry.get(KIND, key, f"{refused_at}.format"))
    if kind is not None and _kind(entry) != kind:
        fix = "change objective:, or name another file or format"
        raise DataError(where, f"rows of format {key} are for {FOR[_kind(entry)]}", f"here: {FOR[kind]}", fix)
    unknown = [own for own in renamed if own not in entry.COLUMNS]
    if unknown:
        hint = did_you_mean(unknown[0], entry.COLUMNS)
        raise DataError(f"{where}, columns", f"format {key} has no column {unknown[0]!r}", hint)
    columns = {own: renamed.get(own, given) for own, given in _found(entry, seen).items()}
    missing = [own for own in entry.REQUIRED if own not in columns]
    if missing:
        raise DataError(
            where,
            f"format {key} needs the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            f"the file has: {', '.join(present)}",
            f"name it in the recipe, as in columns: {{{missing[0]}: {present[0] if present else '...'}}}",
        )
    unused = tuple(column for column in present if column not in columns.values())
    references = getattr(entry, "references", None)
    kind = _kind(entry)
    return Reading(format=key, columns=columns, unused=unused, kind=kind, read=entry.read, references=references)


def _found(entry: Format, present: frozenset[str]) -> dict[str, str]:
    find: Callable[[frozenset[str]], dict[str, str]] | None = getattr(entry, "find", None)
    return told(entry.COLUMNS, present) if find is None else find(present)


def _by_place(where: str, own: str, given: str, present: Sequence[str]) -> None:
    if given.isdecimal() and all(name.isdecimal() for name in present):
        allowed = f"0 to {len(present) - 1}: a row has {len(present)} fields"
        raise DataError(f"{where}, columns.{own}", f"there is no field {given}", allowed, "correct the number")


def _kind(entry: Format) -> RowKind:
    kind: RowKind = getattr(entry, "ROWS", "plain")
    return kind


def _detect(where: str, seen: frozenset[str], present: Sequence[str], kind: RowKind | None) -> str:
    entries = {key: cast("Format", registry.get(KIND, key)) for key in registry.entries(KIND)}
    known = [key for key, entry in entries.items() if kind is None or _kind(entry) == kind]
    fitting = [key for key in known if entries[key].matches(seen)]
    if kind is None:  # question and answer are also a pair of texts; what is to be written goes before that
        fitting = [key for key in fitting if _kind(entries[key]) in ("plain", "judged")] or fitting
    if len(fitting) == 1:
        return fitting[0]
    has = ", ".join(present) or "none"
    if fitting:
        raise DataError(
            where, f"its columns ({has}) fit {' and '.join(fitting)}", fix="say which: add format: to the source"
        )
    fix = "say how to read it, as in {path: ..., format: alpaca, columns: {instruction: question}}"
    if kind == "judged":
        fix = "say how to read it, as in {path: ..., format: preference, columns: {chosen: better, rejected: worse}}"
    others = [key for key, entry in entries.items() if key not in known and entry.matches(seen)]
    if others and kind is not None:
        meant = " or ".join(dict.fromkeys(FOR[_kind(entries[key])] for key in others))
        fix = f"as {' or '.join(others)} they are for {meant}: change objective:. If not, {fix}"
    if kind == "plain" and (other := sorted(seen & OTHER_OBJECTIVES)):
        fix = fix[0].upper() + fix[1:] if others else f"If not, {fix}"
        fix = f"{' and '.join(other)}: are these rows for another objective? {fix}"
    if where.endswith((".csv", ".tsv")):
        fix = (
            f"does the file begin with a line of column names? If not, give numbers: columns: {{text: 0}}. If so, {fix}"
        )
    raise DataError(
        where,
        f"no format is known for its columns: {has}",
        f"formats: {', '.join(known)}",
        fix,
    )
