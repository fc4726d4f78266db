# SPDX-License-Identifier: Apache-2.0
"""What the loop works on: a run's parts, its counters, and what changes while it goes on. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from luthier.engine import metrics
from luthier.engine.distributed import ALONE, Ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    import torch

    from luthier.core.trainable import Objective, Trainable
    from luthier.core.types import Tree
    from luthier.engine._callback import Callback, Watchers
    from luthier.engine.layerwise import Layerwise
    from luthier.engine.precision import Masters
    from luthier.kernels.forest import Forest
    from luthier.recipe import Recipe


@dataclass
class Progress:
    """The loop's counters; a checkpoint keeps them exactly.

    Attributes:
        step: Optimiser steps done.
        tokens: Real tokens trained on.
        scored_tokens: Scored ones among them.
        pairs: Pairs of a token and one that it sees: what attention computed.
        padding: Tokens besides that were computed and stand for nothing (encoder-decoders).
        passes: Forward and backward passes.
        seconds: Wall-clock of the training steps alone.
        cpu_seconds: Processor time of the same.
        loss: Of the last step.
        evaluation: What the last evaluation found.
        best: What the best one found (`engine.best`).
        best_step: The step it came after; 0 where there was none.
        waited: Evaluations since then.
        ended: Whether the run stopped early.
        interval: Sums since the last logged line.
    """

    step: int = 0
    tokens: int = 0
    scored_tokens: int = 0
    pairs: int = 0
    padding: int = 0
    passes: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    loss: float | None = None
    evaluation: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    waited: int = 0
    ended: bool = False
    interval: metrics.Interval = field(default_factory=metrics.Interval)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Everything the loop needs.

    Attributes:
        recipe: Checked.
        trainable: The model with its method.
        objective: Bound.
        total_steps: Steps of the whole run.
        batches: Step number -> its micro-batches; a pure function, so resuming needs no loader state.
        eval_batches: Evaluation batches, or none.
        refer: Adds what the reference model says to a forest, where trees do not carry it.
        asked_cpu_seconds: Processor time that asking the reference took before the first step.
        folder: The run's folder.
        data: Digest of the training rows: a run is resumed on the same ones only.
        callbacks: Who watches, by name.
        say: Receives one line at a time about what happens.
        ranks: The processes that train it; `batches` are this one's share.
    """

    recipe: Recipe
    trainable: Trainable
    objective: Objective
    total_steps: int
    batches: Callable[[int], Sequence[Sequence[Tree]]]
    eval_batches: Sequence[Sequence[Tree]] = ()
    refer: Callable[[Forest], Forest] | None = None
    asked_cpu_seconds: float = 0.0
    folder: Path
    data: str = ""
    callbacks: Mapping[str, Callback] = field(default_factory=dict)
    say: Callable[[str], None] = lambda _: None
    ranks: Ranks = ALONE

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"


@dataclass(frozen=True, kw_only=True)
class State:
    """What changes while the loop runs.

    Attributes:
        masters: What the optimiser moves.
        optimizer: Over them.
        progress: The counters.
        watchers: Who is told.
        random: Where the run's random numbers begin, or go on.
        presence: What says that the run goes on (`presence`); closed with the run.
        layerwise: What moves parameters in the backward pass, where that is asked for.
    """

    masters: Masters
    optimizer: torch.optim.Optimizer
    progress: Progress
    watchers: Watchers
    random: dict[str, str]
    presence: ExitStack
    layerwise: Layerwise | None = None

    def close(self) -> None:
        """The run ends, for whatever reason."""
        self.presence.close()
        self.watchers.tell("on_end")
        self.masters.release()
        if self.layerwise is not None:
            self.layerwise.release()
