# SPDX-License-Identifier: Apache-2.0
"""Move each parameter in the backward pass, as soon as its gradient is whole, and let the gradient go.

No more gradients are held than those of one layer. In return nothing is known of the whole gradient when the first
parameter moves: there is no clipping by its norm, one micro-batch a step, and one process. A gradient that is not
finite stops all updates behind it; the run then fails, and what was moved is not saved.

Reference:
    Lv et al., Full Parameter Fine-tuning for Large Language Models with Limited Resources, arXiv 2306.09782,
    section 3.1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from luthier.core.errors import RecipeError
from luthier.engine.optim import set_learning_rate

if TYPE_CHECKING:
    from collections.abc import Callable

    from luthier.core.trainable import Trainable
    from luthier.engine.distributed import Ranks
    from luthier.engine.precision import Masters


class Layerwise:
    """Updates in the backward pass.

    Args:
        trainable: What trains.
        masters: Of the same; their hooks come first.
        optimizer: Over the masters.
        ranks: One only.

    Raises:
        RecipeError: There are several processes.
    """

    def __init__(self, trainable: Trainable, masters: Masters, optimizer: torch.optim.Optimizer, ranks: Ranks) -> None:
        if ranks.world > 1:
            received = f"{ranks.world} processes, whose gradients are added up at the end of a pass"
            raise RecipeError("method.layerwise", received, "one process", "remove it, or start one process")
        self._masters, self._optimizer, self._step = masters, optimizer, 0
        self._norms: list[torch.Tensor] = []
        self._broken = False
        once = {id(p): (name, p) for name, p in trainable.parameters().items()}
        self._hooks = [p.register_post_accumulate_grad_hook(self._hook(name)) for name, p in once.values()]

    def begin(self, step: int, rate: float) -> None:
        """Get ready for a step's only backward pass.

        Args:
            step: Steps done before.
            rate: The learning rate.
        """
        set_learning_rate(self._optimizer, rate)
        self._step, self._broken = step, False
        self._norms.clear()

    @property
    def norm(self) -> float:
        """Of the step's whole gradient."""
        return math.sqrt(float(torch.stack(self._norms).square().sum())) if self._norms else 0.0

    @property
    def begun(self) -> bool:
        """Whether some parameters have moved in this step."""
        return len(self._norms) > self._broken

    def release(self) -> None:
        """Let the parameters keep their gradients again."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, name: str) -> Callable[[torch.Tensor], None]:
        twin = self._masters.twins[name]

        @torch.no_grad()
        def move(_: torch.Tensor) -> None:
            gradient = twin.grad
            if gradient is None or self._broken:
                twin.grad = None
                return
            norm = torch.linalg.vector_norm(gradient)
            self._norms.append(norm.to("cpu", torch.float64))
            if not math.isfinite(self._norms[-1]):
                self._broken, twin.grad = True, None
                return
            self._masters.move(self._optimizer, self._step, name)

        return move
