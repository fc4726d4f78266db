# SPDX-License-Identifier: Apache-2.0
"""How many steps each run of a study may take, so that all use the same budget.

Steps are planned before a run begins, so the learning rate's schedule ends where the run ends, and a run that was
stopped goes on to the same bits. As many whole steps as fit are taken, at least one: no run uses more than the budget,
and none misses it by more than its last step.

    steps                    as they are
    tokens, scored_tokens    counted from the batches, which are a pure function of the seed
    flops                    from the same, and the count of operations of the variant's model (engine.flops)
    seconds                  from the median time of a step, measured once for each variant over 12 steps and kept in
                             plan.json: a clock that stops runs would stop no two at the same step
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any

from luthier.core import registry
from luthier.engine.flops import Rates, count_rates
from luthier.engine.folder import write_json
from luthier.engine.rows import read_batches
from luthier.kernels.forest import plant
from luthier.models import load_model
from luthier.models.costs import pairs_read, reading_of
from luthier.models.load import load_config
from luthier.recipe import entry_config, load_recipe
from luthier.recipe.fingerprint import flat
from luthier.recipe.tasks import task_of
from luthier.run import train
from luthier.study.checks import LENGTH
from luthier.study.inputs import inputs_digest
from luthier.study.said import Said, said

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from luthier.data import Batches
    from luthier.models.costs import Reading
    from luthier.recipe import Recipe
    from luthier.study.design import Design, Planned
    from luthier.study.sections import Budget

    Say = Callable[[str], None]
    Steps = Mapping[tuple[str, int], int]

PLAN = "plan.json"
TIMED = 12  # steps of a measurement; the first ones fill caches and are left out
_UNTIMED = 4


class Amounts:
    """What the first steps of a run hold, added up as far as somebody asks.

    Attributes:
        sums: (tokens, scored tokens, pairs, passes) after each step.
    """

    def __init__(self, batches: Batches, reading: Reading) -> None:
        self.batches, self.reading = batches, reading
        self.sums: list[tuple[int, int, int, int]] = [(0, 0, 0, 0)]

    def after(self, steps: int) -> tuple[int, int, int, int]:
        """Tokens, scored tokens, pairs and passes of so many steps."""
        while len(self.sums) <= steps:
            forests = [plant(trees) for trees in self.batches.step(len(self.sums) - 1) if trees]
            found = [(forest.num_tokens, forest.num_scored, pairs_read(forest, self.reading), 1) for forest in forests]
            self.sums.append(tuple(map(sum, zip(self.sums[-1], *found, strict=True))))  # type: ignore[arg-type]
        return self.sums[steps]


def fitting(budget: float, used: Callable[[int], float]) -> int:
    """The most steps whose use does not exceed a budget, at least one.

    Args:
        budget: In some unit.
        used: Steps -> what they use, growing.

    Example:
        >>> fitting(10, lambda steps: 3 * steps), fitting(2, lambda steps: 3 * steps)
        (3, 1)
    """
    steps = 1
    while used(steps + 1) <= budget:
        steps += 1
    return steps


def plan_steps(plan: Design, folder: Path, say: Say) -> tuple[dict[tuple[str, int], int], Said]:
    """Find the steps of each run.

    Args:
        plan: With recipes that say nothing of their length.
        folder: Of the study; what is measured or counted is kept there in plan.json.
        say: Told what is measured.

    Returns:
        (variant, seed) -> steps, and a sentence about them.

    Raises:
        UserError: A recipe's data or model cannot be used.
    """
    budget = plan.study.budget
    assert budget is not None
    if budget.kind == "steps":
        steps = {(run.variant, run.seed): round(budget.amount) for run in plan.runs}
    elif budget.kind == "seconds":
        pace = _Kept(folder, lambda run: {"seconds_per_step": _measured(run, folder, say)}, ())
        steps = {
            (run.variant, run.seed): max(1, int(budget.amount / pace.of(run)["seconds_per_step"])) for run in plan.runs
        }
    else:
        steps = _counted(plan, budget, folder, say)
    instead = [key for key in flat(plan.study.base) if key in LENGTH]
    line = _sentence(budget, steps)
    return steps, said("budget_instead", budget=line, key=instead[0]) if instead else line


def _counted(plan: Design, budget: Budget, folder: Path, say: Say) -> dict[tuple[str, int], int]:
    known: dict[str, Amounts] = {}
    rates = _Kept(folder, lambda run: _rates(run, say), ("train.", "optim.", "data."))
    steps = {}
    for run in plan.runs:
        recipe = run.resolved.recipe
        key = _order_key(recipe)
        if key not in known:
            named = recipe.model
            config = load_config(named.model_name_or_path, named.model_revision, named.trust_remote_code)
            known[key] = Amounts(read_batches(recipe, say), reading_of(config))
        amounts = known[key]
        if budget.kind == "flops":
            count = Rates(**rates.of(run))
            used = _flops_of(count, amounts)
        else:
            used = _tokens_of(amounts, scored=budget.kind == "scored_tokens")
        steps[run.variant, run.seed] = fitting(budget.amount, used)
    return steps


def _flops_of(rates: Rates, amounts: Amounts) -> Callable[[int], float]:
    return lambda steps: rates.total(*amounts.after(steps))


def _tokens_of(amounts: Amounts, *, scored: bool) -> Callable[[int], float]:
    return lambda steps: amounts.after(steps)[1 if scored else 0]


def _order_key(recipe: Recipe) -> str:
    """Two recipes of one key see the same batches."""
    model, train = recipe.model, recipe.train
    words = [model.model_name_or_path, model.model_revision, recipe.data.model_dump(mode="json"), recipe.seed]
    words.append(recipe.objective)  # it says which rows are read, and whether others' answers stand beside them
    return json.dumps([*words, train.per_device_train_batch_size, train.gradient_accumulation_steps])


def _rates(run: Planned, say: Say) -> dict[str, float]:
    """Operations of a variant's model with its method."""
    import torch

    say(f"{run.variant}: counting the operations of a step")
    recipe = run.resolved.recipe
    model = load_model(recipe.model, torch.float32, task=task_of(recipe), say=lambda _: None)
    registry.get("methods", recipe.method["name"]).apply(model, entry_config("method", recipe.method))
    return asdict(count_rates(model))


def _measured(run: Planned, folder: Path, say: Say) -> float:
    """Median seconds of a step, by a run that is thrown away."""
    place = folder / "calibration"
    say(f"{run.variant}: timing {TIMED} steps")
    words = [f"train.max_steps={TIMED}", "train.logging_steps=1", "train.eval_steps=0", "optim.warmup_steps=0"]
    words += ["train.load_best_model_at_end=false", f"output_dir={json.dumps(str(place))}", "data.eval=[]"]
    recipe = run.resolved.recipe.model_dump(mode="json")
    try:
        train(load_recipe(recipe, words), overwrite=True)
        lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    finally:
        shutil.rmtree(place, ignore_errors=True)
    seconds = [line["seconds"] for line in lines if "loss" in line]
    steps = [after - before for before, after in zip(seconds[_UNTIMED:-1], seconds[_UNTIMED + 1 :], strict=True)]
    return float(median(steps))


class _Kept:
    """What was found out about each variant, once for all its seeds, and kept in plan.json while its recipe holds."""

    def __init__(self, folder: Path, find: Callable[[Planned], dict[str, float]], without: tuple[str, ...]) -> None:
        self.path, self.find, self.without = folder / PLAN, find, ("seed", "output_dir", *without)
        self.now: dict[str, dict[str, Any]] = {}

    def of(self, run: Planned) -> dict[str, float]:
        """The numbers of a run's variant."""
        if run.variant not in self.now:
            known, wanted = self._read(), self._key(run)
            if known.get(run.variant, {}).get("for") != wanted:
                known[run.variant] = {"for": wanted, "found": self.find(run)}
                write_json(self.path, known)
            self.now[run.variant] = known[run.variant]
        return dict(self.now[run.variant]["found"])

    def _read(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def _key(self, run: Planned) -> str:
        recipe = run.resolved.recipe
        keys = {k: v for k, v in flat(recipe.model_dump(mode="json")).items() if not k.startswith(self.without)}
        text = json.dumps([keys, inputs_digest(recipe)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sentence(budget: Budget, steps: Mapping[tuple[str, int], int]) -> Said:
    """Say it: `Budget: 100,000 scored tokens a run, planned as 41 to 42 steps: as many as fit`."""
    number = f"{budget.amount:.4g}" if budget.kind in ("flops", "seconds") else f"{budget.amount:,.0f}"
    amount = said(f"amount_{budget.kind}", amount=number)
    if budget.kind == "steps":
        return said("budget", amount=amount)
    by_variant: dict[str, list[int]] = {}
    for (variant, _), count in steps.items():
        by_variant.setdefault(variant, []).append(count)
    spans = {name: _span(counts) for name, counts in by_variant.items()}
    if len(set(spans.values())) == 1:
        planned = said("budget_steps", steps=next(iter(spans.values())))
    else:
        planned = said("budget_each", parts=[said("budget_of", name=name, steps=span) for name, span in spans.items()])
    return said("budget_timed" if budget.kind == "seconds" else "budget_planned", amount=amount, steps=planned)


def _span(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else said("span", low=low, high=high)
