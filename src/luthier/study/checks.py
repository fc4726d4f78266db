# SPDX-License-Identifier: Apache-2.0
"""What the keys of a study cannot say together: names that are not there, and choices that two places make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.errors import RecipeError, did_you_mean
from luthier.evaluate.named import name_of
from luthier.recipe import Recipe
from luthier.recipe.fingerprint import flat
from luthier.recipe.schema import Data, Model, Optim, Section, Train
from luthier.study.axes import grid
from luthier.study.sections import check_budget, check_claim

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable

    from luthier.study.schema import Study

_KINDS: dict[str, type[Section]] = {"model": Model, "data": Data, "optim": Optim, "train": Train}
_SECTIONS = {name: list(kind.model_fields) for name, kind in _KINDS.items()}
# Keys that say how long a run is; with a budget, the budget does.
LENGTH = ("train.max_steps", "train.num_train_epochs", "train.early_stopping_patience")


def check_study(study: Study, base: str, name: re.Pattern[str]) -> None:
    """Hold a study to what its keys say together.

    Args:
        study: Axes are variants already; what is tuned beside its variant is not yet one.
        base: The name that no variant may have.
        name: What a variant's name may be.

    Raises:
        RecipeError: The first thing that is wrong.
    """
    _check_variants(study, base, name)
    if len(set(study.seeds)) != len(study.seeds):
        raise RecipeError("study seeds", f"received {list(study.seeds)}", "each seed once")
    if study.tune:
        _check_tune(study)
    if study.budget:
        check_budget(study.budget)
        _check_length(study)
    if study.start is not None:
        _check_start(study)
    rows = [*study.rows, *_tuned_rows(study)]
    if study.against not in rows:
        raise RecipeError("study baseline", f"unknown variant {study.against!r}", did_you_mean(study.against, rows))
    for number, claim in enumerate(study.claims):
        check_claim(claim, number)
        for given in (claim.first, claim.second):
            if given not in rows:
                where = f"study claims.{number}"
                raise RecipeError(where, f"unknown variant {given!r}", did_you_mean(given, rows), "correct it")
        suites = [name_of(given) for given in study.evaluate]
        if claim.on is not None and claim.on not in suites:
            where = f"study claims.{number}.on"
            raise RecipeError(where, f"unknown suite {claim.on!r}", did_you_mean(claim.on, suites), "correct it")


def check_keys(keys: Iterable[str], where: str) -> None:
    """Refuse recipe keys that are none; a method's own keys are looked at when its recipes are made.

    Args:
        keys: Dotted.
        where: What messages call their place.

    Raises:
        RecipeError: A section or a key of one is unknown.
    """
    for key in keys:
        head, _, leaf = key.partition(".")
        if head not in Recipe.model_fields:
            known = [f"{section}.{name}" for section, names in _SECTIONS.items() for name in names]
            allowed = did_you_mean(key, known).split("Known: ")[0] + "recipe keys, such as method.r"
            raise RecipeError(f"{where}.{key}", "unknown key", allowed, "correct it")
        if head in _SECTIONS and leaf and leaf not in _SECTIONS[head]:
            raise RecipeError(f"{where}.{key}", "unknown key", did_you_mean(leaf, _SECTIONS[head]), "correct it")


def _check_variants(study: Study, base: str, pattern: re.Pattern[str]) -> None:
    for name, tree in study.variants.items():
        where = f"study variants.{name}"
        if not pattern.fullmatch(name) or name == base:
            allowed = f"letters, digits and . _ + = -, and not {base!r}: each variant is a folder"
            raise RecipeError(where, f"name {name!r}", allowed)
        for key in sorted({key.split(".")[0] for key in tree} & {"seed", "output_dir"}):
            raise RecipeError(where, f"{key!r} of a variant", "the study sets seeds and folders", "remove it")


def _check_tune(study: Study) -> None:
    tune = study.tune
    assert tune is not None
    check_keys(tune.keys, "study tune.keys")
    grid({key: list(values) for key, values in tune.keys.items()}, "study tune.keys")
    reported = [name_of(given) for given in study.evaluate]
    if name_of(tune.on) in reported:
        received = f"{tune.on!r}, which is in evaluate"
        allowed = "a suite of its own: a score on the items that chose it flatters"
        raise RecipeError("study tune.on", received, allowed, "give another one, such as embedded-dev")
    chosen = study.variants if tune.variants is None else tune.variants
    for name in chosen:
        if name not in study.variants:
            raise RecipeError("study tune.variants", f"unknown variant {name!r}", did_you_mean(name, study.variants))
        if clash := next((key for key in flat(study.variants[name]) if key in tune.keys), None):
            where = f"study tune.keys.{clash}"
            received = f"the variant {name!r} (or an axis) sets it too"
            raise RecipeError(where, received, "one place says it", "remove one, or leave the variant out of tune")
    if tune.beside and (twice := sorted({f"{name}-tuned" for name in chosen} & set(study.variants))):
        raise RecipeError("study tune.beside", f"{twice[0]!r} is a variant", "a name for what is tuned", "rename it")


def _check_length(study: Study) -> None:
    """The base's steps and epochs give way to a budget, and it is said; a difference between variants may not."""
    places = [(f"variants.{name}", flat(tree)) for name, tree in study.variants.items()]
    places += [("tune.keys", study.tune.keys if study.tune else {})]
    places += [("base", {key: value for key, value in flat(study.base).items() if key not in LENGTH[:2]})]
    for where, tree in places:
        if said := next((key for key in tree if key in LENGTH), None):
            received, allowed = f"{said}, and a budget as well", "one of them says how long runs are"
            raise RecipeError(f"study {where}", received, allowed, "remove one")


def _check_start(study: Study) -> None:
    method: Any = (study.start or {}).get("method")
    name = method.get("name") if isinstance(method, dict) else method
    if name != "full":
        received = f"method {name or 'lora (the default)'!r} leaves an adapter"
        raise RecipeError("study start.method", received, "full: a whole model to go on from", "write method: full")


def _tuned_rows(study: Study) -> list[str]:
    if not study.tune or not study.tune.beside:
        return []
    return [f"{name}-tuned" for name in study.tune.variants or study.variants]
