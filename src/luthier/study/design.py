# SPDX-License-Identifier: Apache-2.0
"""A study -> its runs, what differs between them, and what that leaves uncontrolled."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import RecipeError
from luthier.recipe import Resolved, load_recipe
from luthier.recipe.fingerprint import flat
from luthier.study.said import Said, said
from luthier.study.schema import START, words_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from luthier.study.schema import Study

# What decides which examples a run sees, in which order (luthier.data.Batches is a function of these and the model's
# tokenizer alone).
_ORDER = ("data.", "train.per_device_train_batch_size", "train.gradient_accumulation_steps")
_LENGTH = ("train.max_steps", "train.num_train_epochs", "train.early_stopping_patience")
_NAMED = 4  # variants named for one value of a key
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
        tuned: Variant -> what was chosen for it.
        notes: What a reader of the table must know of budget and tuning: one sentence each.
    """

    study: Study
    runs: tuple[Planned, ...]
    differing: dict[str, dict[str, Any]]
    base: Resolved
    tuned: Mapping[str, Tuned] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def uncontrolled(self) -> list[Said]:
        """What besides the methods differs: empty if all variants of a seed see the same examples in the same order."""
        kinds = {
            "examples": [key for key in self.differing if key.startswith(_ORDER)],
            # a budget holds the amount equal, in its own unit, by different numbers of steps
            "amount": [] if self.study.budget else [k for k in self.differing if k.startswith(_LENGTH)],
            "model": [key for key in self.differing if key.startswith("model.")],
        }
        return [said(f"differs_{what}", recipe_keys=keys) for what, keys in kinds.items() if keys]

    def common(self, key: str) -> Any:
        """The value of a recipe key that all variants which have it share, or None."""
        if key in self.differing:
            values = [value for value in self.differing[key].values() if value is not None]
            return values[0] if values and all(value == values[0] for value in values) else None
        return flat(self.runs[0].resolved.recipe.model_dump(mode="json")).get(key)


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What was chosen for a variant, and from what.

    Attributes:
        values: Recipe key -> the value that is used.
        score: The mean score that chose it, on the suite of `tune.on`.
        edge: Key -> `lowest` or `highest`, where the choice is at the end of the numbers tried.
        tried: Every point of the grid with its score; null where no run finished.
    """

    values: dict[str, Any]
    score: float
    edge: dict[str, str]
    tried: tuple[dict[str, Any], ...]


def design(
    study: Study, tuned: Mapping[str, Tuned] | None = None, steps: Mapping[tuple[str, int], int] | None = None
) -> Design:
    """Resolve every variant with every seed.

    Args:
        study: Loaded.
        tuned: Variant -> values to use instead of the base's.
        steps: (variant, seed) -> steps that a budget leaves.

    Raises:
        RecipeError: A variant does not make a recipe; nothing has run.
    """
    base = _resolve("base", study.base, ())
    folder, tuned = Path(study.output_dir), tuned or {}
    runs = []
    for seed in study.seeds:
        for name, tree in study.variants.items():
            place = folder / "runs" / name / f"seed-{seed}"
            words = [f"seed={seed}", f"output_dir={json.dumps(str(place))}"]
            if name in tuned:
                words += words_of(tuned[name].values)
            if steps:
                words.append(f"train.max_steps={steps[name, seed]}")
            start, changed = _replaced(study.base, tree)
            resolved = _resolve(f"variants.{name}", start, (*words_of(changed), *words))
            runs.append(Planned(variant=name, seed=seed, resolved=resolved, folder=place))
    return Design(study=study, runs=tuple(runs), differing=differing(runs), base=base, tuned=tuned)


def resolve_start(study: Study) -> Resolved:
    """The recipe of the run that comes before all others.

    Raises:
        RecipeError: It is none.
    """
    place = json.dumps(str(Path(study.output_dir) / START))
    return _resolve("start", study.start or {}, (f"output_dir={place}",))


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


def differing(runs: Sequence[Planned]) -> dict[str, dict[str, Any]]:
    """Keys whose values are not the same in all variants of the first seed; None where a variant has no such key."""
    first = {run.variant: run.resolved for run in runs if run.seed == runs[0].seed}
    trees = {name: flat(resolved.recipe.model_dump(mode="json")) for name, resolved in first.items()}
    keys = dict.fromkeys(key for tree in trees.values() for key in tree if key not in _NOT_COMPARED)
    found = {key: {name: tree.get(key) for name, tree in trees.items()} for key in keys}
    return {key: values for key, values in found.items() if len({json.dumps(v) for v in values.values()}) > 1}


def difference_lines(plan: Design) -> list[str]:
    """What differs between the variants, and nothing else does: a line a key, with the variants of each value."""
    if not plan.differing:
        return ["no recipe key differs between the variants"]
    lines, owned = ["what differs between the variants (all other recipe keys are the same):"], []
    for key, values in plan.differing.items():
        groups: dict[str, list[str]] = {}
        for name, value in values.items():
            groups.setdefault("–" if value is None else _short(value), []).append(name)
        if len(groups) == 2 and "–" in groups:  # another method's own key
            owned.append(f"{key} = {next(value for value in groups if value != '–')}")
        else:
            lines.append(f"    {key}: " + "; ".join(f"{value} ({_names(names)})" for value, names in groups.items()))
    if owned:
        lines.append(f"    not in every method, the same wherever it is: {', '.join(owned)}")
    return lines + [f"not controlled: {what}" for what in plan.uncontrolled()]


def _names(names: list[str]) -> str:
    return ", ".join(names if len(names) <= _NAMED else [*names[: _NAMED - 1], f"{len(names) - _NAMED + 1} more"])


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:28]}…{text[-28:]}"
