# SPDX-License-Identifier: Apache-2.0
"""Training without masters: bfloat16 weights that every update rounds at random, so that small ones are not lost.

A bfloat16 number has 8 significant bits: an update of less than 2^-9 of a weight is lost when it is rounded to the
nearest. Rounded up with a probability of just the part that is cut off, the mean of what is kept is the sum itself.
Each update is made in float32, some parameters at a time; what is drawn is a function of seed, step and parameter, so a
resumed run repeats it to the bit, and all ranks of a run draw the same.

Reference:
    Gupta et al., Deep Learning with Limited Numerical Precision, arXiv 1502.02551, section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from luthier.core.errors import RecipeError
from luthier.engine.precision import Masters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from luthier.core.trainable import Trainable
    from luthier.recipe import Optim, Recipe

ROUNDING = 11  # bytes of a number while it is rounded, its float32 left out: drawn 4, cut 4, finite 1, bfloat16 2
AT_A_TIME = 1 << 24  # numbers that are float32 at a time, or one larger parameter


def masters_of(recipe: Recipe, trainable: Trainable) -> Masters:
    """What the optimiser of a recipe moves."""
    if recipe.optim.weights == "bfloat16_stochastic":
        return Rounded(trainable, recipe.seed)
    return Masters(trainable)


def check_weights(optim: Optim, trainable: Trainable) -> None:
    """Refuse `optim.weights: bfloat16_stochastic` where no trained weight is bfloat16.

    Raises:
        RecipeError: It would have no effect.
    """
    if optim.weights == "float32" or any(p.dtype == torch.bfloat16 for p in trainable.parameters().values()):
        return
    raise RecipeError(
        "optim.weights",
        f"{optim.weights}, and nothing that trains is bfloat16",
        "full fine-tuning (or another method that trains the base's own weights) of a bfloat16 model",
        "set model.dtype: bfloat16, or remove it: what an adapter trains is float32",
    )


def transient(lengths: list[int]) -> int:
    """How many numbers of these parameters are float32 at a time."""
    return min(sum(lengths), max(AT_A_TIME, max(lengths, default=0)))


@torch.no_grad()
def round_at_random(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Round float32 to bfloat16, up or down with probabilities such that the mean is the value itself.

    The 16 bits that are cut off are a fraction of 2^16 of the way to the next number: with a whole number drawn below
    2^16 added to them, the carry rounds up as often as that. What is not finite stays what it is.

    Args:
        values: Float32.
        generator: On the same device.
    """
    bits = values.contiguous().view(torch.int32)
    drawn = torch.randint(1 << 16, values.shape, dtype=torch.int32, device=values.device, generator=generator)
    cut = drawn.add_(bits).bitwise_and_(-1 << 16).view(torch.float32)
    return torch.where(values.isfinite(), cut, values).bfloat16()


class Rounded(Masters):
    """No masters: an update is made on float32 copies of some parameters at a time and rounded into them at random.

    The twins have shapes and gradients, which add up in float32 as with masters, but numbers only while they move.

    Args:
        trainable: What trains.
        seed: Of the run.
    """

    def __init__(self, trainable: Trainable, seed: int) -> None:
        super().__init__(trainable)
        self.seed = seed
        self.kept = trainable.parameters()

    def _twin(self, parameter: torch.nn.Parameter) -> torch.nn.Parameter:
        return torch.nn.Parameter(_nothing(parameter))

    @torch.no_grad()
    def move(self, optimizer: torch.optim.Optimizer, step: int, only: str | None = None) -> None:
        """As with masters; optimisers pass over parameters without a gradient, so each moves once."""
        chosen = self._chosen(only)
        twins = [self._pairs[place][1] for place in chosen]
        waiting = {id(twin): twin.grad for twin in twins}
        for twin in twins:
            twin.grad = None
        optimizer.step()  # what is float32 anyway
        for places in _some({place: self._pairs[place][0].numel() for place in chosen}):
            for place in places:
                parameter, twin = self._pairs[place]
                twin.data, twin.grad = parameter.float(), waiting.pop(id(twin))
            optimizer.step()
            for place in places:
                parameter, twin = self._pairs[place]
                if twin.grad is not None:
                    drawn = np.random.SeedSequence([self.seed, step, place]).generate_state(1, np.uint64)
                    generator = torch.Generator(parameter.device).manual_seed(int(drawn[0]))
                    parameter.copy_(round_at_random(twin.data, generator))
                twin.data, twin.grad = _nothing(parameter), None
        optimizer.zero_grad(set_to_none=True)

    def publish(self, only: str | None = None) -> None:
        """The model has its numbers already."""


def _nothing(parameter: torch.Tensor) -> torch.Tensor:
    """A tensor of its shape that holds one number."""
    return torch.zeros((), device=parameter.device).expand(parameter.shape)


def _some(sizes: dict[int, int]) -> Iterator[list[int]]:
    """Places of parameters that move together, of places with how many numbers stand there."""
    some: list[int] = []
    held = 0
    for place, size in sizes.items():
        if some and held + size > AT_A_TIME:
            yield some
            some, held = [], 0
        some.append(place)
        held += size
    if some:
        yield some
