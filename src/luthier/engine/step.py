# SPDX-License-Identifier: Apache-2.0
"""One optimiser step's gradient: any number of micro-batches, one normalisation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from luthier.core.trainable import Gathering, Predicting
from luthier.engine.distributed import ALONE, total
from luthier.kernels.forest import plant
from luthier.models import outputs
from luthier.models.costs import padding, seen_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from luthier.core.trainable import Loss, Objective
    from luthier.core.types import Tree
    from luthier.engine.distributed import Ranks
    from luthier.kernels.forest import Forest

    Refer = Callable[[Forest], Forest]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What the forward and backward passes of one step found.

    Attributes:
        sums: The loss and the objective's own metrics, added up over all units.
        units: What they are divided by: scored tokens, pairs ...
        tokens: Real tokens.
        scored_tokens: Scored tokens.
        pairs: Pairs of a token and one that it sees.
        padding: Tokens besides that were computed and stand for nothing.
        passes: Micro-batches.
        rows: Data rows that took part; of the micro-batches with a loss that is not finite, where there are any.
    """

    sums: dict[str, float]
    units: int
    tokens: int
    scored_tokens: int
    pairs: int = 0
    padding: int = 0
    passes: int = 0
    rows: tuple[str, ...]

    @property
    def loss(self) -> float:
        """The objective per unit."""
        return self.sums["loss"] / self.units


def accumulate(
    model: torch.nn.Module,
    objective: Objective,
    micro_batches: Sequence[Sequence[Tree]],
    refer: Refer | None = None,
    ranks: Ranks = ALONE,
) -> StepResult:
    """Add the gradient of one optimiser step to the parameters.

    With micro-batches m of loss sums L_m and units U_m the gradient is that of sum L_m / sum U_m: the units of the
    whole step are known before the first backward pass, so every split into micro-batches gives the same gradient.
    (A mean of means weighs the tokens of short micro-batches more.)

    Args:
        model: With its method applied, in training mode.
        objective: Bound.
        micro_batches: Lists of trees; empty ones are passed over. With several ranks: this one's share.
        refer: Adds what the reference model says to a forest, where trees do not carry it.
        ranks: Who shares the step. Units are those of all; the gradient and the result's sums are this one's still.
    """
    tally = Tally(objective, micro_batches, ranks, model)
    device = next(model.parameters()).device
    for forest in told(tally.forests, model, objective, refer, ranks):
        placed = forest.to(device)
        found = outputs(model, placed)
        loss = objective.loss(found, gathered(objective, found, placed))
        if loss.total.requires_grad:  # a step whose trees score nothing has no gradient
            (loss.total / tally.units).backward()
        tally.add(loss)
    return tally.result()


def told(
    forests: Sequence[Forest], model: torch.nn.Module, objective: Objective, refer: Refer | None, ranks: Ranks = ALONE
) -> Iterator[Forest]:
    """The forests of a step with what their objective asks for besides: the reference's words, the step's numbers.

    What is gathered over the whole step (`Gathering`) needs the outputs of all micro-batches before the first loss:
    where there are several, or several ranks, one more pass without gradient finds it. It draws dropout of its own.
    """
    device = next(model.parameters()).device
    if not isinstance(objective, Gathering) or (len(forests) < 2 and ranks.world == 1):
        for forest in forests:
            yield refer(forest.to(device)) if refer else forest
        return
    known = [refer(forest.to(device)) if refer else forest for forest in forests]
    parts: list[Mapping[str, torch.Tensor]] = []
    with torch.no_grad():
        for forest in known:
            placed = forest.to(device)
            parts.append(objective.gather(outputs(model, placed), placed))
    step, before = joined(parts), 0
    if ranks.world > 1:
        shares = ranks.gather((len(parts), {name: value.cpu() for name, value in step.items()}))
        before = sum(count for count, _ in shares[: ranks.rank])
        step = {name: value.to(device) for name, value in joined([share for _, share in shares]).items()}
    yield from (replace(forest, step=step, place=before + number) for number, forest in enumerate(known))


def joined(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """What micro-batches gathered, as that of a whole step: numbers added up, lists joined, both in order.

    Example:
        >>> parts = [{"n": torch.tensor(1.0), "x": torch.tensor([2])}, {"n": torch.tensor(3.0), "x": torch.tensor([4])}]
        >>> {name: value.tolist() for name, value in joined(parts).items()}
        {'n': 4.0, 'x': [2, 4]}
    """
    names = dict.fromkeys(name for part in parts for name in part)
    found: dict[str, torch.Tensor] = {}
    for name in names:
        values = [part[name] for part in parts if name in part]
        found[name] = torch.cat(values) if values[0].ndim else sum(values[1:], values[0])
    return found


def gathered(objective: Objective, found: torch.Tensor, forest: Forest) -> Forest:
    """A forest with what its objective gathers, where it is the step's only one and nobody has done it yet."""
    if forest.step or not isinstance(objective, Gathering):
        return forest
    return replace(forest, step=objective.gather(found.detach(), forest))


class Tally:
    """A step's forests, what its loss is divided by, and the sums so far.

    Args:
        objective: Bound.
        micro_batches: Lists of trees; empty ones are passed over.
        ranks: Who shares the step.
        model: Whose pairs and padding are counted; a decoder's without one.

    Attributes:
        trees: The micro-batches.
        forests: The same, each laid flat.
        units: Of the whole step over all ranks, 1 at least.
    """

    def __init__(
        self,
        objective: Objective,
        micro_batches: Sequence[Sequence[Tree]],
        ranks: Ranks = ALONE,
        model: torch.nn.Module | None = None,
    ) -> None:
        self._model = torch.nn.Module() if model is None else model
        self.trees = [trees for trees in micro_batches if trees]
        self.forests = [plant(trees) for trees in self.trees]
        self.units = max(1, ranks.count(sum(objective.units(forest) for forest in self.forests)))
        self._losses: list[torch.Tensor] = []
        self._metrics: dict[str, torch.Tensor] = {}

    def add(self, loss: Loss) -> None:
        """Count one micro-batch, in the order of the forests."""
        self._losses.append(loss.total.detach().double())
        for name, value in loss.metrics.items():
            value = value.detach().double()
            self._metrics[name] = self._metrics[name] + value if name in self._metrics else value

    def result(self) -> StepResult:
        """What the step found."""
        # The numbers leave the device once, here: a GPU would wait for each at every micro-batch otherwise.
        totals: list[float] = torch.stack(self._losses).tolist() if self._losses else []
        broken = [forest for forest, total in zip(self.forests, totals, strict=True) if not math.isfinite(total)]
        return StepResult(
            sums={"loss": sum(totals), **{name: float(value) for name, value in self._metrics.items()}},
            units=self.units,
            tokens=sum(forest.num_tokens for forest in self.forests),
            scored_tokens=sum(forest.num_scored for forest in self.forests),
            pairs=sum(seen_pairs(self._model, forest) for forest in self.forests),
            padding=sum(padding(self._model, forest) for forest in self.forests),
            passes=len(self.forests),
            rows=tuple(row for forest in broken or self.forests for row in forest.rows),
        )


def merged(shares: Sequence[StepResult]) -> StepResult:
    """One step's result from its shares on all ranks; rows are those of broken shares, where there are any."""
    broken = [share for share in shares if not math.isfinite(share.sums["loss"])]
    return StepResult(
        sums=total([share.sums for share in shares]),
        units=shares[0].units,
        tokens=sum(share.tokens for share in shares),
        scored_tokens=sum(share.scored_tokens for share in shares),
        pairs=sum(share.pairs for share in shares),
        padding=sum(share.padding for share in shares),
        passes=sum(share.passes for share in shares),
        rows=tuple(row for share in broken or shares for row in share.rows),
    )


@torch.no_grad()
def evaluate_loss(
    model: torch.nn.Module,
    objective: Objective,
    batches: Sequence[Sequence[Tree]],
    refer: Refer | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """The objective per unit over evaluation batches, without dropout: `{"loss": …}` and its metrics.

    What an objective gathers over a step (`Gathering`) is that of each batch here. Ranks take turns, batch by batch;
    the value is that of all batches, and the same on each rank. Metrics that are no means over units come from the
    records of all batches, in the batches' order (`Predicting`), and stand in the place of means of the same name.
    """
    was_training = model.training
    model.eval()
    try:
        sums: dict[str, float] = {}
        units, records = 0, []
        device = next(model.parameters()).device
        for place in range(ranks.rank, len(batches), ranks.world):
            forest = plant(batches[place]).to(device)
            forest = refer(forest) if refer else forest
            found = outputs(model, forest)
            loss = objective.loss(found, gathered(objective, found, forest))
            units += objective.units(forest)
            if isinstance(objective, Predicting):
                records.append((place, objective.records(found, forest)))
            for name, value in {"loss": loss.total, **loss.metrics}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        sums, units = total(ranks.gather(sums)), ranks.count(units)
        values = {name: value / max(1, units) for name, value in sums.items()}
        if isinstance(objective, Predicting):
            every = sorted((one for share in ranks.gather(records) for one in share), key=lambda one: one[0])
            values |= objective.metrics(joined([record for _, record in every]))
        return values
    finally:
        model.train(was_training)
