# SPDX-License-Identifier: Apache-2.0
"""Sections of a study file: what is held equal (`budget`), what is tuned (`tune`), what is claimed (`claims`).

budget: {scored_tokens: 100000}
tune:   {keys: {optim.learning_rate: [3e-4, 1e-3, 3e-3]}, on: embedded-dev, seeds: [0]}
claims: [{better: rs256, than: r256}, {no_difference: [r16, r256]}, {at_least: full, as: r16, on: embedded-math}]
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from luthier.core.errors import RecipeError
from luthier.recipe.schema import NonNegative, Positive, Section


def several(value: Any) -> Any:
    """Accept one value for a list of one."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Seeds = Annotated[tuple[NonNegative, ...], BeforeValidator(several), Field(min_length=1)]
Amount = Annotated[float, Field(gt=0)]
Kind = Literal["scored_tokens", "tokens", "steps", "flops", "seconds"]
KINDS: tuple[Kind, ...] = ("scored_tokens", "tokens", "steps", "flops", "seconds")


class Budget(Section):
    """How much every run may use: exactly one of the keys. Steps are planned from it, as many as fit, at least one."""

    scored_tokens: Positive | None = None
    """Tokens that have a loss."""
    tokens: Positive | None = None
    """Tokens."""
    steps: Positive | None = None
    """Optimiser steps."""
    flops: Amount | None = None
    """Operations, counted: 2 for each multiply-add of a matrix product, forward and backward."""
    seconds: Amount | None = None
    """Seconds of training: each variant's time for a step is measured once, and written down as a number of steps."""

    @property
    def kind(self) -> Kind:
        """The key that is given."""
        return next(name for name in KINDS if getattr(self, name) is not None)

    @property
    def amount(self) -> float:
        """Its value."""
        return float(getattr(self, self.kind))


class Tune(Section):
    """Keys whose value is chosen for each variant, on a suite that the study does not report."""

    keys: Annotated[dict[str, tuple[Any, ...]], Field(min_length=1)]
    """Recipe key -> the values tried; several keys are a grid."""
    on: str | dict[str, Any]
    """The suite that chooses, as in `evaluate`, but not one of those."""
    seeds: Seeds = (0,)
    """Each value runs once with each; the highest mean score is chosen, the first one of equals."""
    variants: Annotated[tuple[str, ...], BeforeValidator(several)] | None = None
    """Only these; default all."""
    beside: bool = False
    """Keep each variant as it is too; what is tuned stands beside it as `NAME-tuned`."""


class Claim(Section):
    """What a study is to test of two variants: `better` (with `than`), `no_difference`, or `at_least` (with `as`)."""

    model_config = ConfigDict(populate_by_name=True)

    better: str | None = None
    """This variant scores higher than the one that `than` names."""
    than: str | None = None
    """See `better`."""
    no_difference: tuple[str, str] | None = None
    """The interval of the two variants' difference includes 0."""
    at_least: str | None = None
    """This variant does not score lower than the one that `as` names."""
    as_: Annotated[str | None, Field(alias="as")] = None
    """See `at_least`."""
    on: str | None = None
    """The suite; default the first one of `evaluate`."""

    @property
    def kind(self) -> Literal["better", "no_difference", "at_least"]:
        """Which of the three it is."""
        return "better" if self.better else "at_least" if self.at_least else "no_difference"

    @property
    def first(self) -> str:
        """The variant that stands first."""
        return str(self.better or self.at_least or (self.no_difference or ("",))[0])

    @property
    def second(self) -> str:
        """The variant that it is held against."""
        return str(self.than or self.as_ or (self.no_difference or ("", ""))[1])


_FORMS = "one of {better: A, than: B}, {no_difference: [A, B]}, {at_least: A, as: B}; with on: SUITE if you like"


def check_budget(budget: Budget) -> None:
    """Hold a budget to one kind.

    Raises:
        RecipeError: It has none, or several.
    """
    given = [name for name in KINDS if getattr(budget, name) is not None]
    if len(given) != 1:
        received = f"{' and '.join(given)} at once" if given else "nothing"
        raise RecipeError("study budget", received, f"exactly one of {', '.join(KINDS)}", "keep one")


def check_claim(claim: Claim, number: int) -> None:
    """Hold a claim to one of its forms.

    Raises:
        RecipeError: It is none of them.
    """
    given = {name for name in ("better", "than", "no_difference", "at_least", "as_") if getattr(claim, name)}
    if given not in ({"better", "than"}, {"no_difference"}, {"at_least", "as_"}):
        said = ", ".join(sorted(name.rstrip("_") for name in given)) or "nothing"
        raise RecipeError(f"study claims.{number}", f"received {said}", _FORMS, "write one claim an entry")
    if claim.first == claim.second:
        raise RecipeError(f"study claims.{number}", f"{claim.first!r} twice", "two variants", "name another one")
