# SPDX-License-Identifier: Apache-2.0
"""GaLore: every parameter trains, and the optimiser sees gradients of matrices in a small subspace.

    R = P^T G           P [m, r] are the leading left singular vectors of G [m, n], found anew every T steps
    W = W - rate scale P N(R)       N is what the optimiser makes of R: AdamW, 8-bit AdamW, Adafactor, Lion ...

State of AdamW: m r + 2 n r numbers in the place of 2 m n. The optimiser is the recipe's (`optim.optim: adamw_8bit`
gives GaLore's 8-bit form), and so is weight decay; clipping sees the whole gradient. The result is a whole model.
`proj_bits` keeps P in 4 or 8 bits, and `cos_threshold` finds it less often where it stays what it is, as in Q-GaLore.

References:
    Zhao et al., GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection, arXiv 2403.03507, algorithm 2.
    Zhang et al., Q-GaLore, arXiv 2407.08296, sections 3.2 and 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field

from luthier.methods import _few_bits
from luthier.methods._projected import ProjectedKeys, due, train_projected
from luthier.methods._projection import by_range_finder, by_svd, generator_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from luthier.core.trainable import GradientTransform, Trainable

QUEUE, LONGER = 5, 2  # similarities that are averaged, and the factor on the gap: Q-GaLore's published values
Sides = tuple[bool, bool]  # whether there is a basis of the rows' side (left), and of the columns' (right)


class Config(ProjectedKeys):
    """What GaLore can be told."""

    scale: Annotated[float, Field(gt=0.0)] = 0.25
    """Factor on updates that come back from the subspace (alpha of the paper)."""
    proj_type: Literal["std", "reverse_std", "right", "left", "full"] = "std"
    """The side that is projected: the smaller (`std`), the larger, always columns' or rows', or both (`full`)."""
    projection: Literal["randomized", "svd"] = "randomized"
    """How the subspace is found: a seeded range finder with one power step, or the published code's SVD."""
    moments: Literal["keep", "rotate", "reset"] = "keep"
    """What becomes of moments when the subspace changes: kept as they are (published), rotated into it, or dropped."""
    proj_bits: Literal[4, 8] | None = None
    """Keep the subspace in 4 bits (Q-GaLore's) or 8, with a scale for each 256 numbers; null: in 32."""
    cos_threshold: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """Double a matrix's gap where the first vectors of subspaces in a row agree so far (Q-GaLore: 0.4); null: not."""


def apply(model: PreTrainedModel, config: Config) -> Trainable:
    """Let every parameter train, with gradients of the targets projected.

    Args:
        model: Loaded by :func:`luthier.models.load_model`; changed in place.
        config: The recipe's section.

    Returns:
        Its result is a whole model; its `disabled()` raises LuthierError once a step was taken.

    Raises:
        RecipeError: A key matches nothing, or nothing is left to train or to project.

    Reference:
        Zhao et al., arXiv 2403.03507, algorithm 2.
    """

    def make(shape: tuple[int, int], seed: int, place: int) -> GradientTransform:
        return Subspace(config=config, matrix=shape, seed=seed, place=place)

    return train_projected(model, config, "galore", make)


@dataclass(frozen=True, kw_only=True)
class Subspace:
    """The subspace of one matrix's gradients.

    Attributes:
        config: The recipe's section.
        matrix: Its m and n.
        seed: Of the run.
        place: Its number among the targets: each draws numbers of its own.
    """

    config: Config
    matrix: tuple[int, int]
    seed: int
    place: int

    @property
    def rank(self) -> int:
        """At most the smaller side, as in the published code."""
        return min(self.config.rank, *self.matrix)

    @property
    def sides(self) -> Sides:
        """Which sides are projected."""
        kind = self.config.proj_type
        if kind == "full":
            return True, True
        wide = self.matrix[0] < self.matrix[1]
        left = {"left": True, "right": False, "std": wide, "reverse_std": not wide}[kind]
        return left, not left

    @property
    def shape(self) -> tuple[int, ...]:
        """[r, n], [m, r] or [r, r]."""
        return tuple(self.rank if on else size for on, size in zip(self.sides, self.matrix, strict=True))

    @property
    def state_bytes(self) -> int:
        """Those of the bases, and of what tells how much they change."""
        bits, sides = self.config.proj_bits, [size for on, size in zip(self.sides, self.matrix, strict=True) if on]
        bases = [self.rank * size for size in sides]
        kept = sum(4 * numbers if bits is None else _few_bits.kept_bytes(numbers, bits) for numbers in bases)
        return kept + (4 * (sides[0] + QUEUE) if self.config.cos_threshold is not None else 0)

    def project(self, gradient: torch.Tensor, own: dict[str, Any], moments: dict[str, Any]) -> torch.Tensor:
        """R; where it is due, in a new subspace."""
        if due(own, own.get("gap", self.config.update_proj_gap)):
            before = self._bases(own)
            now = self._find(gradient, own["updates"], before)
            if self.config.cos_threshold is not None:
                self._compare(now, own, self.config.cos_threshold)
            self._keep(now, own)
            if before and self.config.moments == "rotate":
                _rotate(moments, before, self._bases(own))
            elif self.config.moments == "reset":
                moments.clear()
        bases = self._bases(own)
        projected = bases["left"].T @ gradient if "left" in bases else gradient
        return projected @ bases["right"].T if "right" in bases else projected

    def restore(self, update: torch.Tensor, gradient: torch.Tensor, own: dict[str, Any]) -> torch.Tensor:  # noqa: ARG002
        """Back from the subspace, scaled."""
        bases = self._bases(own)
        restored = bases["left"] @ update if "left" in bases else update
        return self.config.scale * (restored @ bases["right"] if "right" in bases else restored)

    def _keep(self, bases: Mapping[str, torch.Tensor], own: dict[str, Any]) -> None:
        """Put bases into what is kept, in as few bits as is asked for."""
        bits = self.config.proj_bits
        for side, basis in bases.items():
            found = {"": basis} if bits is None else _few_bits.encode(basis, bits)
            own |= {f"{side}.{key}" if key else side: value for key, value in found.items()}

    def _bases(self, own: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The numbers of what is kept: left [m, r], right [r, n]; none before the first projection."""
        bits, found = self.config.proj_bits, {}
        rows, columns = self.matrix
        for side, shape in (("left", (rows, self.rank)), ("right", (self.rank, columns))):
            if side in own:
                found[side] = own[side]
            elif bits is not None and f"{side}.codes" in own:
                kept = {key: own[f"{side}.{key}"] for key in ("codes", "scales", "zeros")}
                found[side] = _few_bits.decode(kept, shape, bits)
        return found

    def _compare(self, now: Mapping[str, torch.Tensor], own: dict[str, Any], threshold: float) -> None:
        """Double the gap where the first vectors of the last subspaces agree, each with the one before, in the mean."""
        vector = now["left"][:, 0] if "left" in now else now["right"][0]
        similar = own.get("similar", vector.new_full((QUEUE,), torch.nan))
        if "first" in own:
            cosine = torch.nn.functional.cosine_similarity(own["first"], vector, dim=0)
            similar = torch.cat([similar[1:], cosine[None]])
            if float(similar.mean()) >= threshold:  # it is no number before there are as many
                own["gap"] = LONGER * own.get("gap", self.config.update_proj_gap)
        own |= {"first": vector.clone(), "similar": similar}

    def _find(self, gradient: torch.Tensor, updates: int, before: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The bases of a gradient."""
        found: dict[str, torch.Tensor] = {}
        for side, wanted in zip(("left", "right"), self.sides, strict=True):
            if not wanted:
                continue
            right = side == "right"
            if self.config.projection == "svd":
                found[side] = by_svd(gradient, self.rank, right=right)
                continue
            generator = generator_of(gradient.device, self.seed, self.place, updates, int(right))
            basis = by_range_finder(gradient.T if right else gradient, self.rank, generator)
            basis = basis.T.contiguous() if right else basis
            found[side] = _aligned(basis, before[side], int(right)) if before else basis
        return found


def _aligned(basis: torch.Tensor, before: torch.Tensor, along: int) -> torch.Tensor:
    """Each vector with the sign that points as the one in its place before.

    Signs of singular vectors are the library's choice. Moments that are kept belong to these vectors, so two libraries
    would otherwise train two models (0.03 apart after 8 steps of a test with rates of 0.01 to 0.03).
    """
    turned = (basis * before).sum(along, keepdim=True)
    return torch.where(turned < 0, -basis, basis)


def _rotate(moments: dict[str, Any], before: Mapping[str, Any], now: dict[str, Any]) -> None:
    """Moments in the new subspace: C m, and (C o C) v of squares, with C = P_new^T P_old.

    The second is what the variances of independent numbers become, and never negative.
    """
    for name, power in (("exp_avg", 1), ("momentum_buffer", 1), ("exp_avg_sq", 2)):
        value = moments.get(name)
        if value is None:
            continue
        if "left" in before:
            value = (now["left"].T @ before["left"]) ** power @ value
        if "right" in before:
            value = value @ (before["right"] @ now["right"].T) ** power
        moments[name] = value
