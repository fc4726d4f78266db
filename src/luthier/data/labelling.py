# SPDX-License-Identifier: Apache-2.0
"""What rows are labelled with: names from the training rows or the recipe, the problem they pose, names -> numbers."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from luthier.core.errors import DataError
from luthier.core.tasks import Labelled, Labels, Tagged
from luthier.data.faults import RowFault

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from luthier.core.tasks import Problem

SHOWN = 12  # names that a line about them lists


@dataclass(kw_only=True)
class Tally:
    """What stands in the label columns of some rows.

    Attributes:
        names: Name -> how often.
        lists: Rows with no label or with several.
        widths: Number of values -> rows that have so many; rows of names are not counted here.
        wholes: Values that are whole, as the names they are where classes are asked for, of rows with one -> how often.
        faults: What was wrong with rows that could not be read -> how many.
    """

    names: Counter[str] = field(default_factory=Counter)
    lists: int = 0
    widths: Counter[int] = field(default_factory=Counter)
    wholes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, example: Labelled | Tagged) -> None:
        """Count one row."""
        if isinstance(example, Tagged):
            self.names.update(example.tags)
            return
        if example.labels and isinstance(example.labels[0], float):
            self.widths[len(example.labels)] += 1
            if len(example.labels) == 1 and example.labels[0].is_integer():
                self.wholes[_whole(example.labels[0])] += 1
            return
        self.lists += len(example.labels) != 1
        self.names.update(str(label) for label in example.labels)


def settle(tallies: Iterable[Tally], given: Sequence[str], problem: Problem | None, where: str) -> Labels:
    """Decide what the labels of a run are.

    Lists of names are several labels, numbers with a fraction are values, and everything else is one label of several.

    Args:
        tallies: Of the training rows.
        given: Names that the recipe fixes; empty: those of the rows, integers by size and words by the alphabet.
        problem: What the objective says it is; None: what the rows look like.
        where: What a message calls the rows.

    Raises:
        DataError: There is nothing to tell apart, or nothing is labelled.
    """
    found = Tally()
    for tally in tallies:
        found.names += tally.names
        found.lists += tally.lists
        found.widths += tally.widths
        found.wholes += tally.wholes
        found.faults += tally.faults
    problem = problem or _problem(found)
    if problem == "regression":
        width = found.widths.most_common(1)[0][0] if found.widths else 1
        many = tuple(f"value_{place}" for place in range(width)) if width > 1 else ("value",)
        return Labels(names=tuple(given) or many, problem=problem, fixed=bool(given))
    numbered = found.widths.most_common(1)[0][0] if found.widths else 0
    if problem == "multi_label_classification" and numbered:  # 0.0 and 1.0 for each class
        names = tuple(given) or tuple(map(str, range(numbered)))
    else:  # pandas writes classes as 0.0 and 1.0 where some are missing
        names = tuple(given) or _sorted(found.names + found.wholes)
    if not names:
        fix = "a run cannot learn from rows without labels; name their column, as in columns: {labels: category}"
        why = "; ".join(f"{count:,} rows: {reason}" for reason, count in found.faults.most_common(3))
        received = f"no row has a label{f' ({why})' if why else ''}"
        raise DataError(where, received, "names, or numbers", fix)
    if len(given) == 1 and problem == "single_label_classification":
        raise DataError("data.labels", f"one name, {given[0]!r}", "two or more: one of them is chosen", "name all")
    if len(names) == 1 and problem == "single_label_classification":
        fix = (
            "are the first rows of a sorted file used (max_rows)? Give rows of other labels, or name all in data.labels"
        )
        raise DataError(where, f"every row is labelled {names[0]!r}", "two labels or more", fix)
    return Labels(names=names, problem=problem, fixed=bool(given))


def _problem(found: Tally) -> Problem:
    if found.widths:
        return "regression"
    if found.lists:
        return "multi_label_classification"
    values = [_number(name) for name in found.names]
    known = [value for value in values if value is not None]
    fractions = bool(known) and len(known) == len(values) and any(not value.is_integer() for value in known)
    return "regression" if fractions else "single_label_classification"


def _number(name: str) -> float | None:
    try:
        value = float(name)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    found = list(names)
    whole = all(name.lstrip("-").isdecimal() for name in found)
    return tuple(sorted(found, key=int) if whole else sorted(found))


class Numbers:
    """Names of labels -> the numbers that train.

    Args:
        labels: What rows can be labelled with; if their order is fixed, rows may also give one by its number.
    """

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.places = {name: place for place, name in enumerate(labels.names)}
        if labels.fixed and not any(name.isdecimal() for name in labels.names):
            self.places |= {str(place): place for place in range(len(labels))}

    def key(self) -> list[object]:
        """Everything that the numbers depend on."""
        return [self.labels.problem, sorted(self.places.items())]

    def targets(self, example: Labelled) -> tuple[float, ...] | RowFault:
        """A class number; 0 or 1 for each class; or values."""
        try:
            return self._targets(example)
        except RowFault as fault:
            return fault

    def tag(self, name: str) -> int:
        """The number of a tag.

        Raises:
            RowFault: There is no such tag.
        """
        place = self.places.get(name)
        if place is None:
            raise RowFault("unknown tag", repr(name)[:60])
        return place

    def name(self, label: str | float) -> str:
        """The name of a label that a row may give by its number; one that is unknown as it stands."""
        whole = _whole(label)
        return self.labels.names[self.places[whole]] if whole in self.places else whole

    def _targets(self, example: Labelled) -> tuple[float, ...]:
        labels, problem = example.labels, self.labels.problem
        if problem == "regression":
            return self._values(labels)
        if labels and isinstance(labels[0], float) and problem == "multi_label_classification":
            if len(labels) != len(self.labels) or not set(labels) <= {0.0, 1.0}:
                raise RowFault("labels are not 0 or 1 for each class", f"{len(labels)} for {len(self.labels)} classes")
            return tuple(map(float, labels))
        names = [_whole(label) for label in labels]
        unknown = [name for name in names if name not in self.places]
        if unknown:
            raise RowFault("unknown label", repr(unknown[0])[:60])
        places = [self.places[name] for name in names]
        if problem == "multi_label_classification":
            return tuple(float(place in places) for place in range(len(self.labels)))
        if len(places) != 1:
            raise RowFault("not one label", f"{len(places)} labels")
        return (float(places[0]),)

    def _values(self, labels: Sequence[str | float]) -> tuple[float, ...]:
        values = [_number(str(label)) for label in labels]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            raise RowFault("a label that is not a number", repr(labels[values.index(None)])[:60])
        if len(known) != len(self.labels):
            raise RowFault("not as many values as others have", f"{len(known)}, not {len(self.labels)}")
        return tuple(known)


def _whole(label: str | float) -> str:
    """2.0 is class 2 where classes are asked for."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def told(labels: Labels) -> str:
    """Say in a line what rows are labelled with."""
    if labels.problem == "regression":
        return f"labels: regression of {', '.join(labels.names)}"
    some = ", ".join(labels.names[:SHOWN]) + (", ..." if len(labels) > SHOWN else "")
    how = ", any number of them" if labels.problem == "multi_label_classification" else ""
    return f"labels: {len(labels)}{how}: {some}"
