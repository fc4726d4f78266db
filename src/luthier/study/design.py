# SPDX-License-Identifier: Apache-2.0
"""A study -> its runs, what differs between them, and what that leaves uncontrolled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import RecipeError
from luthier.recipe import Resolved, load_recipe
from luthier.recipe.fingerprint import flat
from luthier.study.schema import words_of

if TYPE_CHECKING:
    from luthier.study.schema import Study

# What decides which examples a run sees, in which order (luthier.data.Batches is a function of these and the model's
# tokenizer alone).
_ORDER = ("data.", "train.per_device_train_batch_size", "train.gradient_accumulation_steps")
_LENGTH = ("train.max_steps", "train.num_train_epochs", "train.early_stopping_patience")
_NOT_COMPARED = ("seed", "output_dir")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One run of a study.

    Attributes:
        variant: Its name.
        seed: Its seed.
        resolved: Its recipe.
        folder: Where it is written.
    """

    variant: str
    seed: int
    resolved: Resolved
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Design:
    """Everything a study will do.

    Attributes:
        study: As it was given.
        runs: Seed by seed, and within a seed in the order of the variants.
        differing: Recipe key -> the value of each variant, for the keys in which variants differ.
        base: The recipe of the model before training.
    """

    study: Study
    runs: tuple[Planned, ...]
    differing: dict[str, dict[str, Any]]
    base: Resolved

    def uncontrolled(self) -> list[str]:
        """What besides the methods differs: empty if all variants of a seed see the same examples in the same order."""
        kinds = {
            "examples": [key for key in self.differing if key.startswith(_ORDER)],
            "amount of training": [key for key in self.differing if key.startswith(_LENGTH)],
            "base model": [key for key in self.differing if key.startswith("model.")],
        }
        return [f"{what} ({', '.join(keys)})" for what, keys in kinds.items() if keys]

    def common(self, key: str) -> Any:
        """The value of a recipe key that all variants which have it share, or None."""
        if key in self.differing:
            values = [value for value in self.differing[key].values() if value is not None]
            return values[0] if values and all(value == values[0] for value in values) else None
        return flat(self.runs[0].resolved.recipe.model_dump(mode="json")).get(key)


def design(study: Study) -> Design:
    """Resolve every variant with every seed.

    Raises:
        RecipeError: A variant does not make a recipe; nothing has run.
    """
    base = _resolve("base", study.base, ())
    folder = Path(study.output_dir)
    runs = []
    for seed in study.seeds:
        for name, tree in study.variants.items():
            place = folder / "runs" / name / f"seed-{seed}"
            words = (f"seed={seed}", f"output_dir={json.dumps(str(place))}")
            start, changed = _replaced(study.base, tree)
            resolved = _resolve(f"variants.{name}", start, (*words_of(changed), *words))
            runs.append(Planned(variant=name, seed=seed, resolved=resolved, folder=place))
    first = {run.variant: run.resolved for run in runs if run.seed == study.seeds[0]}
    return Design(study=study, runs=tuple(runs), differing=_differing(first), base=base)


def _resolve(where: str, tree: dict[str, Any], words: tuple[str, ...]) -> Resolved:
    try:
        return load_recipe(tree, words)
    except RecipeError as error:
        raise RecipeError(f"study {where}: {error.where}", error.received, error.allowed, error.fix) from None


def _replaced(base: dict[str, Any], tree: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A variant that names another method (or objective) than the base starts from that one's own defaults."""
    for kind in ("method", "objective"):
        name = _name(tree.get(kind)) or tree.get(f"{kind}.name")
        if name is not None and name != _name(base.get(kind)):
            own = tree[kind] if isinstance(tree.get(kind), dict) else {}
            base = base | {kind: {"name": name, **own}}
            tree = {key: value for key, value in tree.items() if key not in (kind, f"{kind}.name")}
    return base, tree


def _name(entry: Any) -> Any:
    return entry.get("name") if isinstance(entry, dict) else entry


def _differing(variants: dict[str, Resolved]) -> dict[str, dict[str, Any]]:
    """Keys whose values are not the same in all variants; None where a variant has no such key."""
    trees = {name: flat(resolved.recipe.model_dump(mode="json")) for name, resolved in variants.items()}
    keys = dict.fromkeys(key for tree in trees.values() for key in tree if key not in _NOT_COMPARED)
    found = {key: {name: tree.get(key) for name, tree in trees.items()} for key in keys}
    return {key: values for key, values in found.items() if len({json.dumps(v) for v in values.values()}) > 1}
