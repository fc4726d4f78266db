# SPDX-License-Identifier: Apache-2.0
"""A run's plan from the model that is loaded: before its first step, and beside what it took after the last."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from luthier.planning.calibrate import here
from luthier.planning.case import Case, reference_mode
from luthier.planning.counts import count
from luthier.planning.fit import Fitted, fit_memory
from luthier.planning.free import free_bytes, size
from luthier.planning.layers import again_flops
from luthier.planning.remedies import find_remedies, told_remedies
from luthier.planning.speed import TRIED, Speed, time_passes, timed_speed
from luthier.planning.work import Work, some_batches, work_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from luthier.core.trainable import Trainable
    from luthier.engine.rows import Rows
    from luthier.recipe import Recipe

    Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """What a run is about to take.

    Attributes:
        recipe: Checked.
        trainable: The model with its method.
        work: The rows in numbers.
        fitted: Bytes.
        idle: Bytes of the process before it loaded anything.
        speed: Seconds; None before :meth:`timed`.
        say: Told how it came out.
    """

    recipe: Recipe
    trainable: Trainable
    work: Work
    fitted: Fitted
    idle: int = 0
    speed: Speed | None = None
    say: Say = field(default=lambda _: None)

    @classmethod
    def of(cls, recipe: Recipe, rows: Rows, trainable: Trainable, say: Say, idle: int = 0) -> Ahead:
        """Plan a run, and refuse one that does not fit.

        Raises:
            RecipeError: It does not fit.
        """
        work = work_of(recipe, rows, reference_mode(recipe, rows, trainable))

        def remedies() -> str:
            return _remedies(recipe, work, trainable)

        fitted = fit_memory(recipe, trainable, work, say, ranks=rows.ranks.local_world, remedies=remedies)
        return cls(recipe=recipe, trainable=trainable, work=work, fitted=fitted, idle=idle, say=say)

    def timed(self, rows: Rows) -> Ahead:
        """The same with seconds: of micro-batches that are timed now."""
        batches = some_batches(rows, TRIED)
        if not batches or self.recipe.train.torch_compile:  # the first pass would compile for minutes
            return self
        timed = time_passes(self.trainable, batches, self.recipe.optim, asked=self.work.asked_in_steps)
        speed = timed_speed(timed, self.fitted.counts, self.work)
        return replace(self, speed=speed)

    def against(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """The plan beside what was measured, for summary.json; told in a line, too."""
        need = self.fitted.need
        measured = {
            "peak_memory_bytes": max(0, summary["peak_memory_bytes"] - self.idle),
            "seconds": summary["seconds"],
            "cpu_seconds": summary["cpu_seconds"],
        }
        words = f"memory: {size(measured['peak_memory_bytes'])}, planned {size(need.total)}"
        if self.speed is not None:
            words += f"; time: {summary['seconds']:.1f} s, planned {self.speed.seconds:.1f} s"
        peaks = ", ".join(f"{name} {size(peak['peak_bytes'])}" for name, peak in summary["memory"].items())
        self.say(f"{words} (peaks with the process: {peaks})")
        return {
            "peak_memory_bytes": need.total,
            "memory": asdict(need),
            "seconds": None if self.speed is None else self.speed.seconds,
            "activations": self.fitted.layers.to_json(),
            "host_memory_bytes": self.fitted.host_bytes,
            "recomputed_flops": again_flops(self.fitted.layers, self.fitted.counts, self.work),
            "idle_bytes": self.idle,
            "measured": measured,
        }


def _remedies(recipe: Recipe, work: Work, trainable: Trainable) -> str:
    """What would make a run fit, in words for an error; nothing where nothing that was tried does."""
    model: Any = trainable.model
    machine = here(model.device, free_bytes(model.device))
    dtype = str(model.dtype).removeprefix("torch.")
    case = Case(recipe=recipe, counts=count(trainable), work=work, machine=machine, dtype=dtype)
    return told_remedies(find_remedies(case))
