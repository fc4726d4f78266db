# SPDX-License-Identifier: Apache-2.0
"""summary.json: what a finished run was and what it cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from luthier.engine import machine
from luthier.engine.distributed import ALONE
from luthier.engine.flops import count_rates
from luthier.engine.groups import table
from luthier.engine.optim import optimizer_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from luthier.core.trainable import Trainable
    from luthier.engine.distributed import Ranks
    from luthier.engine.work import Progress
    from luthier.recipe import Resolved


def summarise(
    resolved: Resolved, progress: Progress, trainable: Trainable, shared: int = 1, ranks: Ranks = ALONE
) -> dict[str, Any]:
    """The contents of summary.json. Rates and times are those of the training steps alone, over all resumptions.

    Where `shared` runs trained side by side, the seconds of a shared pass are divided by tokens, so those of all runs
    add up to what was spent; the peak of memory is the process's: that of the base and all of them. Where several
    ranks trained one run, tokens, rates and processor time are those of all, seconds rank 0's, and the peak is that of
    the rank that took most.
    """
    rates = count_rates(cast("PreTrainedModel", trainable.model))
    evaluation = {name: {"value": value} for name, value in progress.evaluation.items()}
    return {
        "name": Path(resolved.recipe.output_dir).name,
        "fingerprint": resolved.fingerprint,
        "steps": progress.step,
        "tokens": progress.tokens,
        "scored_tokens": progress.scored_tokens,
        "padding_share": progress.padding / max(progress.tokens + progress.padding, 1),
        "flops": rates.total(progress.tokens, progress.scored_tokens, progress.pairs, progress.passes),
        "seconds": progress.seconds,
        "cpu_seconds": progress.cpu_seconds,
        "tokens_per_second": progress.tokens / max(progress.seconds, 1e-9),
        "tokens_per_cpu_second": progress.tokens / max(progress.cpu_seconds, 1e-9),
        "peak_memory_bytes": max(ranks.gather(machine.peak_memory_bytes())),
        "memory": machine.phases(),
        "trainable_parameters": trainable.num_trainable,
        "total_parameters": sum(p.numel() for p in trainable.model.parameters()),
        "optimizer_bytes": optimizer_bytes(resolved.recipe.optim, trainable),
        "parameter_groups": table(resolved.recipe.optim, trainable),
        "final_loss": progress.loss,
        "evaluation": {"loss": evaluation} if evaluation else {},
        "hardware": machine.hardware(),
        "versions": machine.versions(),
        "seed": resolved.recipe.seed,
        "shared": shared,
        "world_size": ranks.world,
    }
