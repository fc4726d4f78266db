# SPDX-License-Identifier: Apache-2.0
"""Any optimiser over gradients that a method makes smaller first: GaLore's and APOLLO's projections.

    r = project(g)              smaller than g
    u = the optimiser's step from zero on r, at a rate of 1
    w = w - rate (weight_decay w) + rate restore(u)

Clipping and the mean over ranks come before the projection. Weight decay comes before the update, as in torch's AdamW.
The state of a parameter is one flat table, so checkpoints hold all of it: the optimiser's own keys, and the method's
with `transform.` before them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from luthier.core.trainable import GradientTransform

OWN = "transform."


class Transformed(torch.optim.Optimizer):
    """An optimiser in which some parameters have stand-ins.

    Args:
        groups: As torch has them; over the parameters themselves.
        transforms: By the parameter's id; others move as without any.
        make: The optimiser, of such groups.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        transforms: Mapping[int, GradientTransform],
        make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
    ) -> None:
        plain, stood_for = ([_part(group, transforms, moved) for group in groups] for moved in (False, True))
        plain, stood_for = ([group for group in part if group["params"]] for part in (plain, stood_for))
        super().__init__([*plain, *stood_for], {})
        self._transforms = {p: transforms[id(p)] for group in stood_for for p in group["params"]}
        self._stand_ins = {p: torch.nn.Parameter(_nothing(p, t.shape)) for p, t in self._transforms.items()}
        inside = [
            group | {"params": [self._stand_ins[p] for p in group["params"]], "weight_decay": 0.0}
            for group in stood_for
        ]
        self._inner = make([*plain, *inside])
        # Groups of parameters without a transform are the optimiser's own, so whoever sets their rate sets it there.
        self.param_groups = self._inner.param_groups[: len(plain)] + [
            group | own for group, own in zip(self._inner.param_groups[len(plain) :], stood_for, strict=True)
        ]
        for own, group in zip(self.param_groups[len(plain) :], self._inner.param_groups[len(plain) :], strict=True):
            own["lr"], group["lr"] = group["lr"], 1.0
        self._outer = self.param_groups[len(plain) :]
        self.state = self._inner.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient; there is no closure."""
        assert closure is None
        kept = {p: self._begin(p) for _, p in self._with_gradient()}
        self._inner.step()
        for group, p in self._with_gradient():
            stand_in, own = self._stand_ins[p], kept[p]
            update = self._transforms[p].restore(stand_in.data, _gradient(p), own)
            p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=group["lr"])
            self.state[p] = self.state.pop(stand_in) | {f"{OWN}{key}": value for key, value in own.items()}
            stand_in.data, stand_in.grad = _nothing(p, self._transforms[p].shape), None

    def _begin(self, parameter: torch.Tensor) -> dict[str, Any]:
        """Let the stand-in have its gradient, its moments and zeros; what the transform keeps comes back."""
        state, stand_in, transform = self.state[parameter], self._stand_ins[parameter], self._transforms[parameter]
        own = {key.removeprefix(OWN): value for key, value in state.items() if key.startswith(OWN)}
        moments = {key: value for key, value in state.items() if not key.startswith(OWN)}
        projected = transform.project(_gradient(parameter), own, moments)
        stand_in.data = torch.zeros_like(projected)
        stand_in.grad = projected
        self.state[stand_in] = moments
        return own

    def _with_gradient(self) -> Iterator[tuple[dict[str, Any], torch.Tensor]]:
        for group in self._outer:
            yield from ((group, p) for p in group["params"] if p.grad is not None)


def _part(group: dict[str, Any], transforms: Mapping[int, GradientTransform], moved: bool) -> dict[str, Any]:
    return group | {"params": [p for p in group["params"] if (id(p) in transforms) is moved]}


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _nothing(parameter: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor of that shape that holds one number: a stand-in takes memory only while it moves."""
    return torch.zeros((), dtype=parameter.dtype, device=parameter.device).expand(shape)
