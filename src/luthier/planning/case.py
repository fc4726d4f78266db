# SPDX-License-Identifier: Apache-2.0
"""What a plan is worked out from: the recipe, its model with its method in numbers, its rows, the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from luthier.core.errors import LuthierError, ModelError
from luthier.engine.distributed import Ranks
from luthier.engine.machine import kept_pages
from luthier.engine.optim import check_optimizer
from luthier.engine.precision import pick_device, pick_dtype
from luthier.engine.reference import asked_by, decide
from luthier.engine.rows import Rows, bind, read_rows
from luthier.models.load import load_config
from luthier.models.quantized import checkpoint_kind
from luthier.models.threads import fitting_threads
from luthier.planning.calibrate import here
from luthier.planning.counts import count
from luthier.planning.layers import Layers, choose
from luthier.planning.machines import Machine, has_bfloat16, named
from luthier.planning.moving import NOT_COUNTED
from luthier.planning.need import CONTEXT, SHARE, Need, need_of
from luthier.planning.shadow import dense_shadow, shadow_counts
from luthier.planning.speed import TRIED, Speed, Timed, counted_speed, time_passes, timed_speed
from luthier.planning.work import Work, some_batches, work_of
from luthier.recipe.tasks import task_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from luthier.core.trainable import Trainable
    from luthier.planning.counts import Counts
    from luthier.recipe import Recipe

    Say = Callable[[str], None]

# Bits of a number in NF4: 4, and 32 for each block of 64; with double quantisation 0.127 (arXiv 2305.14314, section 3).
# `int8` keeps one float32 scale for each row of a matrix, which is nothing beside the row.
BITS = {"nf4": 4.5, "fp4": 4.5, "int8": 8.0}
DOUBLE_BITS = 4.127
_OF_MEMORY = 8  # a model is timed with random numbers where it takes so small a part of the free memory


@dataclass(frozen=True, kw_only=True)
class Case:
    """A recipe with all that its plan is worked out from.

    Attributes:
        recipe: Checked.
        counts: Its model with its method.
        work: Its rows.
        machine: Where it runs.
        dtype: Numbers of the forward pass.
        timed: What was timed on this machine; None where nothing could be.
    """

    recipe: Recipe
    counts: Counts
    work: Work
    machine: Machine
    dtype: str
    timed: Timed | None = None

    @property
    def room(self) -> int:
        """Bytes that a run may take on each device, the driver's left out."""
        return int(SHARE * self.machine.memory)

    def need(self, layers: Layers, stage: int = 0) -> Need:
        """Bytes on each device."""
        device, count = self.machine.device, self.machine.count
        shards = (count if stage > 0 else 1, count if stage > 1 else 1, count if stage > 2 else 1)
        again, waiting = layers.recomputed, layers.offloaded
        words = (self.counts, self.work, self.recipe.optim, device)
        return need_of(*words, recomputed=again, offloaded=waiting, shards=shards)

    def layers(self) -> Layers:
        """What becomes of each layer's activations: as the recipe says, or the cheapest mix that fits.

        Raises:
            RecipeError: The recipe asks for what the architecture or the device has not.
        """
        wanted = self.recipe.train.gradient_checkpointing
        return choose(wanted, self.counts, self.machine.device, lambda layers: self.fits(self.need(layers)))

    def fits(self, need: Need) -> bool:
        """Whether a device holds it."""
        return need.total + CONTEXT[self.machine.device] <= self.room


def open_case(recipe: Recipe, on: str | None, say: Say) -> Case:
    """Look at model, rows and machine.

    Raises:
        UserError: One of them cannot be used.
    """
    check_optimizer(recipe.optim)
    machine = here(pick_device()) if on is None else named(on)
    dtype = _dtype(recipe, machine)
    ranks = Ranks(world=machine.count)
    rows, estimated = _rows(recipe, say, ranks)
    labels = None if rows.labels is None else len(rows.labels)
    here_too = on is None and not recipe.train.torch_compile
    dense = stand_in(recipe, dtype, labels, machine.memory // _OF_MEMORY) if here_too else None
    counts = count(dense, counted="configuration") if dense else counts_of(recipe, dtype, labels)
    reference = reference_mode(recipe, rows, counts)
    work = work_of(recipe, rows, reference, estimated=estimated)
    timed = None
    if dense is not None:
        with fitting_threads(dense.model), kept_pages():
            timed = time_passes(dense, some_batches(rows, TRIED), recipe.optim, asked=reference is not None)
    return Case(recipe=recipe, counts=counts, work=work, machine=machine, dtype=dtype, timed=timed)


def speed_of(case: Case, need: Need, layers: Layers) -> Speed:
    """Seconds of a case: of passes that were timed, where they were."""
    if case.timed is not None:
        return timed_speed(case.timed, case.counts, case.work, layers)
    return counted_speed(case.counts, case.work, need, case.machine, case.dtype, layers)


def counts_of(recipe: Recipe, dtype: str, labels: int | None) -> Counts:
    """The recipe's model with its method, from the configuration.

    Args:
        recipe: Checked.
        dtype: Of the base.
        labels: Values of its head, where it has one.

    Raises:
        ModelError: The model cannot be built, or the method refuses it.
    """
    config, kind = config_of(recipe, labels)
    model = recipe.model
    try:
        counts = shadow_counts(config, getattr(torch, dtype), task_of(recipe), recipe.method, model.trust_remote_code)
    except LuthierError:
        raise
    except NOT_COUNTED as error:
        received = f"cannot be counted from its configuration ({str(error)[:200]})"
        allowed = "an architecture that runs with its method"
        raise ModelError(f"model {model.model_name_or_path}", received, allowed, "check both") from error
    if model.quantization != "none":
        return counts.quantised(DOUBLE_BITS if model.bnb_4bit_use_double_quant else BITS[model.quantization])
    return counts if kind is None else counts.quantised(BITS["nf4"])


def stand_in(recipe: Recipe, dtype: str, labels: int | None, room: int) -> Trainable | None:
    """A model of random numbers with the recipe's method, to be timed; None where it is too large, or does not run."""
    config, kind = config_of(recipe, labels)
    words = (config, getattr(torch, dtype), task_of(recipe), recipe.method, recipe.model)
    try:
        return None if kind is not None else dense_shadow(*words, room)
    except (*NOT_COUNTED, LuthierError):
        return None  # counting says why


def config_of(recipe: Recipe, labels: int | None) -> tuple[Any, str | None]:
    """The model's configuration, for as many labels, and what its checkpoint was quantised by."""
    model = recipe.model
    config = load_config(model.model_name_or_path, model.model_revision, model.trust_remote_code, weights=False)
    kind = checkpoint_kind(config)
    if kind is not None:
        del config.quantization_config
    if labels is not None:
        config.num_labels = labels
    return config, kind


def reference_mode(recipe: Recipe, rows: Rows, of: Any) -> str | None:
    """Whether a reference is asked `before` the first step, in each `step`, or never (None).

    Args:
        recipe: Checked.
        rows: As they are laid out.
        of: What knows `folder` and `starts_as_base`: a Trainable, or Counts.
    """
    if not bind(recipe, rows.labels).reference:
        return None
    want = asked_by(recipe, rows)
    once = rows.batches.epoch(rows.batches.total_steps) >= 1.0
    return "before" if decide(want, of, once) else "step"


def _rows(recipe: Recipe, say: Say, ranks: Ranks) -> tuple[Rows, bool]:
    """The rows; where the model has no tokenizer beside its configuration, in the built-in model's tokens."""
    try:
        return read_rows(recipe, say, ranks), False
    except ModelError as error:
        if not (error.where.startswith(("tokenizer", "model")) and "no such folder" not in error.received):
            raise
        say(f"{error}: rows are counted in the built-in model's tokens, which are shorter")
    stand_in = recipe.model.model_copy(update={"model_name_or_path": "embedded", "model_revision": None})
    return read_rows(recipe.model_copy(update={"model": stand_in}), say, ranks), True


def _dtype(recipe: Recipe, machine: Machine) -> str:
    if machine.told.startswith("measured"):
        return str(pick_dtype(recipe.model.dtype, machine.device)).removeprefix("torch.")
    return ("bfloat16" if has_bfloat16(machine) else "float32") if recipe.model.dtype == "auto" else recipe.model.dtype
