# SPDX-License-Identifier: Apache-2.0
"""What would make a run fit: each way is planned again, the quickest first."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from luthier.core.errors import LuthierError
from luthier.planning.case import Case, counts_of, speed_of
from luthier.planning.estimate import Remedy, batched
from luthier.planning.free import size
from luthier.planning.layers import Layers
from luthier.recipe import load_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from luthier.planning.counts import Counts
    from luthier.recipe import Recipe

SHOWN = 3
_WHOLE = ("full", "freeze")  # methods that train the base's own matrices
# A product by a matrix of 4 bits takes so many times as long: 1.25 to 1.6 on a CPU (shared bases in NF4, 256 tokens).
_SLOWER_IN_FOUR_BITS = 1.4


def find_remedies(case: Case) -> tuple[Remedy, ...]:
    """The cheapest ways that fit, by the seconds that the run takes then.

    Args:
        case: Which does not fit.
    """
    none = Layers(of=case.counts.layers)
    before = speed_of(case, case.need(none), none).seconds
    counted = Counted(case)
    found = []
    for keys in _ways(case.recipe):
        remedy = _tried(case, keys, before, counted)
        if remedy is not None:
            found.append(remedy)
    return tuple(sorted(found, key=lambda remedy: (remedy.seconds, len(remedy.keys)))[:SHOWN])


def told_remedies(found: tuple[Remedy, ...]) -> str:
    """Ways in words for an error; nothing where nothing that was tried fits."""
    return "; or ".join(
        f"{remedy} ({size(remedy.peak_memory_bytes)}, {remedy.slower:.2f} times as long)" for remedy in found
    )


class Counted:
    """Counts of changed recipes: each model with its method is counted once, however many ways have it."""

    def __init__(self, case: Case) -> None:
        self._dtype = case.dtype
        self._known: dict[str, Counts] = {}

    def of(self, recipe: Recipe) -> Counts:
        """A recipe's counts."""
        key = json.dumps([recipe.model.model_dump(mode="json"), recipe.method], default=str)
        if key not in self._known:
            self._known[key] = counts_of(recipe, self._dtype, None)
        return self._known[key]


def _tried(case: Case, keys: dict[str, Any], before: float, counted: Counted) -> Remedy | None:
    """What a change gives; None where the recipe refuses it, or it does not fit either."""
    tree = case.recipe.model_dump(mode="json")
    try:
        words = [f"{key}={value}" for key, value in keys.items()]
        other = _changed(case, load_recipe(tree, words).recipe, keys, counted)
        layers = other.layers()
    except LuthierError:
        return None  # it does not go with another key, or the method has no such one
    need = other.need(layers)
    if not other.fits(need):
        return None
    seconds = speed_of(other, need, layers).seconds
    if keys.get("model.quantization") == "nf4":
        seconds *= _SLOWER_IN_FOUR_BITS
    return Remedy(
        keys=keys, peak_memory_bytes=need.total, seconds=seconds, slower=seconds / before if before else float("nan")
    )


def _changed(case: Case, recipe: Recipe, keys: dict[str, Any], counted: Counted) -> Case:
    """The case of another recipe on the same rows."""
    counts, work, timed = case.counts, case.work, case.timed
    if any(key.startswith(("method", "model")) for key in keys):
        counts = counted.of(recipe)
        if timed is not None:
            changed = counts.rates.per_token / max(1.0, case.counts.rates.per_token)
            timed = replace(timed, passing=timed.passing * changed)
    before, after = case.recipe.train, recipe.train
    factor = after.per_device_train_batch_size / before.per_device_train_batch_size
    shorter = recipe.data.max_length / case.recipe.data.max_length
    if factor != 1 or shorter != 1:
        # bins are as many tokens as before in all, in more of them; examples are cut, which takes tokens away
        work = batched(work, factor * shorter)
        accumulated = after.gradient_accumulation_steps / before.gradient_accumulation_steps
        steps = work.steps if shorter == 1 or not recipe.data.packing else round(work.steps / shorter)
        work = replace(work, micro_batches=max(1, round(work.micro_batches * accumulated)), steps=steps)
    return replace(case, recipe=recipe, counts=counts, work=work, timed=timed)


def _ways(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Changes of one key or two, and of several at once where one is not enough."""
    train, method = recipe.train, recipe.method
    batches = list(_batches(train.per_device_train_batch_size, train.gradient_accumulation_steps))
    checkpointing: dict[str, Any] = {}
    if train.gradient_checkpointing not in (True, "auto", "offload"):
        checkpointing = {"train.gradient_checkpointing": "auto"}
        yield checkpointing
    yield from batches
    least = batches[-1] if batches else {}
    yield from (keys | checkpointing for keys in batches if checkpointing)
    small = least | checkpointing
    single = list(_others(recipe))
    for keys in single:
        yield keys
        if small:
            yield keys | small
    if method["name"] in _WHOLE:
        yield {"method": "lora"}
        yield {"method": "lora"} | small
        yield {"method": "lora", "model.quantization": "nf4"} | small


def _others(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """What changes the method, the numbers or the rows."""
    method, name = recipe.method, recipe.method["name"]
    if isinstance(method.get("r"), int) and method["r"] > 8:
        yield {"method.r": max(8, method["r"] // 4)}
    if recipe.model.quantization == "none" and name not in _WHOLE:
        yield {"model.quantization": "nf4"}
    if recipe.optim.optim.startswith("adamw") and "8bit" not in recipe.optim.optim:
        yield {"optim.optim": "adamw_8bit"}
        yield {"optim.optim": "adafactor"}
    if name in _WHOLE and recipe.optim.weights == "float32":
        yield {"optim.weights": "bfloat16_stochastic"}
    if recipe.data.max_length >= 512:
        yield {"data.max_length": recipe.data.max_length // 2}


def _batches(size: int, accumulation: int) -> Iterator[dict[str, Any]]:
    """Smaller micro-batches of the same step."""
    factor = 2
    while size % factor == 0 and factor <= size:
        yield {
            "train.per_device_train_batch_size": size // factor,
            "train.gradient_accumulation_steps": accumulation * factor,
        }
        factor *= 2
