# SPDX-License-Identifier: Apache-2.0
"""Every error Luthier raises on purpose.

    LuthierError                     exit code 1: the run failed
    ├── UserError (ValueError)       exit code 2: the user's input is wrong
    │   ├── RecipeError              a key, a type, a combination
    │   ├── DataError                a file, a row, a template
    │   ├── ModelError               a model folder, an architecture
    │   └── MissingExtra             an optional package is not installed
    ├── RunFailed                    a started run cannot go on (NaN loss, full disk, broken checkpoint)
    └── Interrupted                  exit code 130: stopped by the user, can be resumed
        └── RunStopped               the same, of one run alone: a study goes on with the next

A message reads *where: what was received; what is allowed; what to do*.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class LuthierError(Exception):
    """Root of every error that Luthier raises on purpose.

    Args:
        where: The key path, file or row that is at fault.
        received: What was found there.
        allowed: What may stand there.
        fix: What the reader should do about it.
    """

    exit_code = 1

    def __init__(self, where: str, received: str, allowed: str = "", fix: str = "") -> None:
        self.where, self.received, self.allowed, self.fix = where, received, allowed, fix
        parts = [part for part in (received, allowed, fix) if part]
        super().__init__(f"{where}: {'; '.join(parts)}")


class UserError(LuthierError, ValueError):
    """What the user gave is wrong; nothing has been trained or lost."""

    exit_code = 2


class RecipeError(UserError):
    """A recipe key is unknown, of the wrong type, or does not go with another."""


class DataError(UserError):
    """A data file, a row, a format or a chat template cannot be used."""


class ModelError(UserError):
    """A model folder, its weights or its architecture cannot be used."""


class MissingExtra(UserError):
    """A feature needs an optional package.

    Args:
        feature: What the user asked for.
        package: The import name that is missing.
        extra: The extra of Luthier that installs it.
    """

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(
            feature,
            f"the package {package!r} is not installed",
            f"it comes with the extra {extra!r}",
            f"pip install 'luthier[{extra}]'",
        )


class RunFailed(LuthierError):
    """A started run cannot go on; what was saved before stays good."""


class Interrupted(LuthierError):
    """The user stopped the run; it can be resumed."""

    exit_code = 130


class RunStopped(Interrupted):
    """The user stopped this run alone; it can be resumed, and a study goes on with its other runs."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"Did you mean 'x'? Known: x, y."`` for a word that is not known.

    Example:
        >>> did_you_mean("rnak", ["rank", "alpha"])
        "did you mean 'rank'? Known: alpha, rank"
    """
    names = sorted(known)
    close = get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(names)}"
