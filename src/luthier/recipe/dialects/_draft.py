# SPDX-License-Identifier: Apache-2.0
"""A foreign recipe while it is read: every key is translated, named as without effect, or refused; none is dropped."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.core.errors import RecipeError, did_you_mean
from luthier.recipe.override import put
from luthier.recipe.text import one_line, said

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Only(NamedTuple):
    """A key that is fine at some values, where it changes nothing, and refused at all others.

    Attributes:
        values: What changes nothing. `null` is always among them: it asks for the default.
        fix: What to write instead of any other value.
    """

    values: tuple[Any, ...]
    fix: str


OFF = (False, None, "", 0)
"""The ways in which recipes turn something off."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is known of a foreign recipe besides its keys.

    Attributes:
        objective: The objective that an override names (`objective=orpo`), or None.
        file: The recipe's path, whose folders may tell the objective; None for a tree in Python.
        places: Our dotted keys that overrides set, whatever the recipe says of them.
    """

    objective: str | None = None
    file: str | None = None
    places: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Translation:
    """A foreign recipe in our keys.

    Attributes:
        dialect: The name of the tool, as messages write it.
        tree: Our sections and keys; complete but for defaults.
        moved: Our dotted key -> the foreign keys that it came from.
        defaults: Our dotted keys that hold the other tool's default, because it differs from ours.
        idle: Foreign keys that have no effect here, in the order of the recipe.
        notes: What was decided and why, one sentence each.
        refused: What cannot be honoured, one error a key.
    """

    dialect: str
    tree: dict[str, Any]
    moved: dict[str, tuple[str, ...]]
    defaults: tuple[str, ...]
    idle: tuple[str, ...]
    notes: tuple[str, ...]
    refused: tuple[RecipeError, ...]

    def lines(self) -> tuple[str, ...]:
        """What a user is told when such a recipe is run."""
        told = [f"a recipe of {self.dialect}, translated; `luthier convert` writes it in Luthier's own keys"]
        if self.defaults:
            values = ", ".join(f"{key}={one_line(_at(self.tree, key))}" for key in self.defaults)
            told.append(f"defaults of {self.dialect} where ours differ: {values}")
        told += self.notes
        if self.idle:
            told.append(f"no effect here: {', '.join(self.idle)}")
        return tuple(told)


@dataclass(kw_only=True)
class Draft:
    """A translation in the making. Every key of `given` that nothing took is unknown at the end.

    Attributes:
        dialect: The name of the tool, as messages write it.
        given: The foreign tree.
        asked: What is known besides.
    """

    dialect: str
    given: Mapping[str, Any]
    asked: Asked
    tree: dict[str, Any] = field(default_factory=dict)
    moved: dict[str, tuple[str, ...]] = field(default_factory=dict)
    defaults: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refused: list[RecipeError] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    def take(self, key: str, default: Any = None) -> Any:
        """Return a key's value, which is then dealt with; null is the default, as in all three tools."""
        self.taken.add(key)
        value = self.given.get(key)
        return default if value is None else value

    def has(self, key: str) -> bool:
        """Whether the recipe gives a key, and not as null."""
        return self.given.get(key) is not None

    def put(self, place: str, value: Any, *keys: str) -> None:
        """Set our key. Two foreign keys that say different things about it are refused."""
        self.taken.update(keys)
        keys = tuple(key for key in keys if key in self.given)
        if place in self.moved and _at(self.tree, place) != value and place not in self.defaults:
            before = " and ".join(self.moved[place])
            self.refuse(keys[0], f"{said(value)}, but {before} says {said(_at(self.tree, place))}", "", "keep one")
            return
        self.tree = put(self.tree, place.split("."), value, place)
        self.moved[place] = tuple(dict.fromkeys([*self.moved.get(place, ()), *keys]))

    def default(self, place: str, value: Any) -> None:
        """Set our key to the other tool's default where the recipe says nothing."""
        if place not in self.moved:
            self.put(place, value)
            self.defaults.append(place)

    def note(self, text: str) -> None:
        """Say something to the user, once."""
        if text not in self.notes:
            self.notes.append(text)

    def ignore(self, *keys: str) -> None:
        """Name keys that have no effect here."""
        self.taken.update(keys)
        self.idle += [key for key in keys if key in self.given and key not in self.idle]

    def refuse(self, key: str, received: str, allowed: str, fix: str) -> None:
        """Refuse a key; the others are read on, so that a user learns of all at once."""
        self.taken.add(key)
        self.refused.append(RecipeError(key, received, allowed, fix))

    def choose(self, key: str, place: str, names: Mapping[str, Any], fix: str = "") -> None:
        """Set our key by a table of values."""
        value = self.take(key)
        if value is None:
            return
        if isinstance(value, str) and value in names:
            self.put(place, names[value], key)
        else:
            self.refuse(key, f"received {said(value)}", f"known: {', '.join(names)}", fix or "choose one of these")

    def table(self, places: Mapping[str, str], only: Mapping[str, Only], idle: Iterable[str]) -> None:
        """Read every key that a table says all about: one of ours, one that must be off, or one without effect."""
        for key, value in self.given.items():
            if key in self.taken:
                continue
            if key in places:
                self.taken.add(key)
                if value is None:
                    self.ignore(key)
                else:
                    self.put(places[key], value, key)
            elif key in only:
                if value is None or any(value == good and type(value) is type(good) for good in only[key].values):
                    self.ignore(key)
                else:
                    self.refuse(key, f"received {said(value)}", "", only[key].fix)
            elif key in idle or key.startswith(tuple(name[:-1] for name in idle if name.endswith("*"))):
                self.ignore(key)

    def done(self, keys: Iterable[str]) -> Translation:
        """Refuse what nothing took, naming the nearest of the dialect's keys, and close the draft."""
        known = sorted({key for key in keys if not key.endswith("*")})
        told = {key for keys in self.moved.values() for key in keys} | {error.where for error in self.refused}
        for key, value in self.given.items():
            if key in self.taken or (value is None and key in known):
                if key not in told and not any(re.match(rf"{re.escape(key)}[. ]", where) for where in told):
                    self.ignore(key)  # it was read, and set nothing
            else:
                nearest, _, _ = did_you_mean(key, known).partition("Known: ")
                what = f"a key of {self.dialect} that Luthier neither translates nor may pass over"
                self.refuse(key, "unknown key", nearest.rstrip() or what, "correct or remove it")
        return Translation(
            dialect=self.dialect,
            tree=self.tree,
            moved=self.moved,
            defaults=tuple(place for place in self.defaults if not self.moved[place]),
            idle=tuple(self.idle),
            notes=tuple(self.notes),
            refused=tuple(self.refused),
        )


def _at(tree: Any, place: str) -> Any:
    for step in place.split("."):
        tree = tree[step]
    return tree
