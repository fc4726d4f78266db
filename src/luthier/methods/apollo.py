# SPDX-License-Identifier: Apache-2.0
"""APOLLO: every parameter trains by its own gradient, scaled by what an optimiser says of a random projection of it.

    R = P^T G               P [m, r] is drawn at random, anew every T steps; G [m, n], m <= n
    s_j = |N(R)_j| / |R_j|          of each column j, or one for the matrix (`scale_type: tensor`)
    W = W - rate sqrt(scale) G diag(s)

N is what the optimiser makes of R (AdamW and others). State of AdamW: 2 n r numbers and a seed in the place of 2 m n,
and no SVD. APOLLO-Mini is `{name: apollo, rank: 1, scale_type: tensor, scale: 128.0}`.

The length of an update grows by 1 % from step to step at most (the limiter of Fira, arXiv 2410.01623, which the
published code has); here it is that of the update as it is made, with the optimiser's correction of its bias.

Reference:
    Zhu et al., APOLLO: SGD-like Memory, AdamW-level Performance, arXiv 2412.05270, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from luthier.methods._projected import ProjectedKeys, due, train_projected
from luthier.methods._projection import by_svd, drawn_at_random, generator_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from luthier.core.trainable import GradientTransform, Trainable

GROWTH = 1.01  # of an update's length from step to step, at most: Fira's gamma
_TINY = 1e-8  # beside lengths that are divided by, as in the published code


class Config(ProjectedKeys):
    """What APOLLO can be told."""

    scale: Annotated[float, Field(gt=0.0)] = 1.0
    """Updates are multiplied by its square root; APOLLO-Mini has 128."""
    scale_type: Literal["channel", "tensor"] = "channel"
    """Factors of each column (of the larger side), or one for a matrix (APOLLO-Mini)."""
    proj: Literal["random", "svd"] = "random"
    """Projections that are drawn, or the leading singular vectors, which are kept and cost an SVD each time."""
    disable_nl: bool = False
    """Let the length of an update grow without limit."""


def apply(model: PreTrainedModel, config: Config) -> Trainable:
    """Let every parameter train, the targets by scaled gradients.

    Args:
        model: Loaded by :func:`luthier.models.load_model`; changed in place.
        config: The recipe's section.

    Returns:
        Its result is a whole model; its `disabled()` raises LuthierError once a step was taken.

    Raises:
        RecipeError: A key matches nothing, or nothing is left to train or to project.

    Reference:
        Zhu et al., arXiv 2412.05270, algorithm 1.
    """

    def make(shape: tuple[int, int], seed: int, place: int) -> GradientTransform:
        return Scaled(config=config, matrix=shape, seed=seed, place=place)

    return train_projected(model, config, "apollo", make)


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """The factors of one matrix's gradients.

    Attributes:
        config: The recipe's section.
        matrix: Its two sides.
        seed: Of the run.
        place: Its number among the targets: each draws numbers of its own.
    """

    config: Config
    matrix: tuple[int, int]
    seed: int
    place: int

    @property
    def rank(self) -> int:
        """At most the smaller side."""
        return min(self.config.rank, *self.matrix)

    @property
    def wide(self) -> bool:
        """Whether the rows' side is the smaller one, which is projected."""
        return self.matrix[0] < self.matrix[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """[r, n], or [m, r] where n is the smaller side."""
        return (self.rank, self.matrix[1]) if self.wide else (self.matrix[0], self.rank)

    @property
    def state_bytes(self) -> int:
        """Those of the last length, and of a projection that is not drawn."""
        return 4 * (1 + (self.rank * min(self.matrix) if self.config.proj == "svd" else 0))

    def project(self, gradient: torch.Tensor, own: dict[str, Any], moments: dict[str, Any]) -> torch.Tensor:  # noqa: ARG002
        """R. Its factors need it again, so it stays in `own` for the length of a step."""
        gap = self.config.update_proj_gap
        new, upright = due(own, gap), gradient if self.wide else gradient.T
        if self.config.proj == "svd":
            if new:
                own["projection"] = by_svd(gradient, self.rank, right=not self.wide)
            projection = own["projection"] if self.wide else own["projection"].T
        else:  # drawn again in each step: random numbers are cheaper than the memory that they stand in
            generator = generator_of(gradient.device, self.seed, self.place, own["updates"] // gap)
            projection = drawn_at_random(upright.shape[0], self.rank, gradient, generator)
        projected = projection.T @ upright
        own["projected"] = projected.norm(**self._along)
        return projected if self.wide else projected.T.contiguous()

    def restore(self, update: torch.Tensor, gradient: torch.Tensor, own: dict[str, Any]) -> torch.Tensor:
        """The gradient, scaled, and no longer than the growth of lengths allows."""
        upright = update if self.wide else update.T
        factors = upright.norm(**self._along) / (own.pop("projected") + _TINY)
        scaled = gradient * (factors if self.wide or factors.ndim == 0 else factors[:, None])
        if not self.config.disable_nl:
            length = scaled.norm()
            if "length" in own:
                limiter = (length / (own["length"] + _TINY)).clamp_min(GROWTH) / GROWTH
                scaled, length = scaled / limiter, length / limiter
            own["length"] = length.reshape(1)
        return scaled.mul_(-(self.config.scale**0.5))

    @property
    def _along(self) -> dict[str, Any]:
        return {"dim": 0} if self.config.scale_type == "channel" else {}
