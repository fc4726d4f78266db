# SPDX-License-Identifier: Apache-2.0
"""Another tool's recipe: recognised by its keys and translated by the dialect that knows most of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from luthier.core import registry
from luthier.core.errors import RecipeError
from luthier.recipe.dialects._draft import Asked
from luthier.recipe.override import put
from luthier.recipe.schema import Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from luthier.recipe.dialects._draft import Translation

KIND = "recipe.dialects"
SECTIONS = frozenset(name for name in Recipe.model_fields if name not in ("seed", "output_dir"))
# A launcher's file lies beside recipes and looks like one: a key that tells it -> what it is
LAUNCHERS = {
    "distributed_type": "a configuration of `accelerate launch`",
    "compute_environment": "a configuration of `accelerate launch`",
    "zero_optimization": "a configuration of DeepSpeed",
}


class Dialect(Protocol):
    """What a file in ``recipe/dialects`` defines.

    Attributes:
        KEYS: Every key that it knows; one that ends in `*` stands for all that begin so.
    """

    KEYS: frozenset[str]

    def recognises(self, tree: Mapping[str, Any]) -> bool:
        """Whether the tree has a key that tells this dialect."""

    def translate(self, tree: Mapping[str, Any], asked: Asked) -> Translation:
        """Translate a whole recipe; what cannot be honoured is in the translation's `refused`."""


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A foreign recipe, translated.

    Attributes:
        translation: What came of its keys.
        overridden: Our dotted keys that an override of a foreign key has set.
        words: The overrides of our own keys, still to be applied.
    """

    translation: Translation
    overridden: tuple[str, ...]
    words: tuple[tuple[str, Any], ...]


def dialect_of(tree: Mapping[str, Any]) -> Dialect | None:
    """Find the dialect that a tree is written in; None for Luthier's own.

    A tree with a section of ours is ours (`optim: adamw_torch`, a text, is none).

    Raises:
        RecipeError: It is no recipe but a launcher's configuration.
    """
    if (
        not tree
        or any(isinstance(tree.get(name), dict) for name in SECTIONS)
        or {"model", "data", "method"} & set(tree)
    ):
        return None
    for key, what in LAUNCHERS.items():
        if key in tree:
            fix = "give the recipe; several processes are started by `torchrun -m luthier train RECIPE`"
            raise RecipeError(key, f"this is {what}", "it says how processes start, not what to train", fix)
    known = [cast("Dialect", registry.get(KIND, name)) for name in registry.entries(KIND)]
    fitting = [dialect for dialect in known if dialect.recognises(tree)]
    return max(fitting, key=lambda dialect: len(dialect.KEYS.intersection(tree)), default=None)


def translate(tree: dict[str, Any], words: Sequence[tuple[str, Any]], file: str | None) -> Foreign | None:
    """Translate a foreign recipe; None for one of ours.

    Args:
        tree: The recipe as it was written.
        words: Overrides: of the dialect's own keys, or of ours (`method.r`), which are handed back.
        file: The recipe's path, whose folders may tell the objective.

    Raises:
        RecipeError: It is a launcher's configuration.
    """
    dialect = dialect_of(tree)
    if dialect is None:
        return None
    ours: list[tuple[str, Any]] = []
    foreign: set[str] = set()
    objective = None
    for key, value in words:
        head = key.split(".")[0]
        if key in ("objective", "objective.name") and isinstance(value, str):
            objective = value
        elif head in SECTIONS and ("." in key or head not in dialect.KEYS):
            ours.append((key, value))
        else:
            tree = put(tree, key.split("."), value, key)
            foreign.add(head)
    translation = dialect.translate(
        tree, Asked(objective=objective, file=file, places=frozenset(key for key, _ in ours))
    )
    overridden = [place for place, keys in translation.moved.items() if foreign.intersection(keys)]
    named = ["objective.name"] if objective else []
    return Foreign(translation=translation, overridden=(*overridden, *named), words=tuple(ours))


def refuse(translation: Translation) -> None:
    """Raise what cannot be honoured, all of it at once.

    Raises:
        RecipeError: Something cannot; one key is named as it is, several in a list.
    """
    refused = translation.refused
    if len(refused) == 1:
        raise refused[0]
    if refused:
        lines = "".join(f"\n  {error}" for error in refused)
        raise RecipeError(f"recipe of {translation.dialect}", f"{len(refused)} keys cannot be honoured:{lines}")


def named(error: RecipeError, translation: Translation) -> RecipeError:
    """Name a key as the user wrote it, before our name of it."""
    keys = translation.moved.get(error.where, ())
    if not keys:
        return error
    return RecipeError(f"{' and '.join(keys)} ({error.where})", error.received, error.allowed, error.fix)
