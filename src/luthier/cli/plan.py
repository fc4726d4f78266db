# SPDX-License-Identifier: Apache-2.0
"""Say what a run will take before it runs: bytes by category and phase, operations, seconds, the largest batch.

RECIPE is a YAML file; `key=value` words override it: `luthier plan recipe.yaml --on 8xA100-40GB method.r=64`. Weights
are not read: the model's configuration is enough. Without `--on` it is planned for this machine, which is timed once.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from luthier.planning import Plan

PARTS = {
    "weights": "the base, as it is kept",
    "adapters": "what the method puts beside it",
    "gradients": "float32, of all that trains",
    "masters": "float32 copies of trained weights of fewer bits",
    "optimizer": "the optimiser's state",
    "activations": "kept for the backward pass, largest micro-batch",
    "logits": "one chunk of the scored tokens'",
    "passing": "the backward pass through one layer",
    "updating": "made in passing by the optimiser",
    "gaps": "between pieces of the allocator",
    "framework": "libraries and their code",
}


def main(
    recipe: Annotated[str, typer.Argument(help="A YAML recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value words that go over the recipe.")] = None,
    on: Annotated[str | None, typer.Option("--on", help="A machine: H200, 8xA100-40GB ... [default: this one]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """See the module's text."""
    from luthier.recipe import load_recipe

    resolved = load_recipe(recipe, overrides or [])
    from luthier.planning import plan  # a wrong key has answered before torch is imported

    for note in resolved.notes:
        _say(note)
    found = plan(resolved, on=on, say=_say)
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        _show(found)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show(plan: Plan) -> None:
    from luthier.cli._table import console
    from luthier.planning.free import size

    out = console()
    case, machine = plan.case, plan.case.machine
    model = f"{case.counts.parameters:,} parameters, {case.counts.numbers:,} of them train"
    if case.counts.added:
        model = f"{case.counts.parameters:,} parameters, {case.counts.numbers:,} beside them train"
    out.print(f"{model}; {case.dtype}", style="bold", markup=False)
    where = f"{machine.count} x {machine.name}" if machine.count > 1 else machine.name
    work = case.work
    out.print(
        f"{where}, {size(machine.memory)} each; {work.steps:,} steps of {work.micro_batches} micro-batches, "
        f"{work.mean:,.0f} tokens in the mean and {work.tokens:,} at most",
        markup=False,
    )
    _show_memory(out, plan)
    _show_time(out, plan)
    for line in _verdict(plan):
        out.print(line, style="bold" if line.startswith(("It fits", "It does not")) else "", markup=False)
    for note in plan.notes:
        out.print(f"- {note}", style="dim", markup=False)


def _show_memory(out: Console, plan: Plan) -> None:
    from rich.table import Table

    from luthier.planning.free import size

    table = Table("memory of each device", "", "", header_style="bold")
    for name, meaning in PARTS.items():
        if value := getattr(plan.need, name):
            table.add_row(name, size(value), _activations(plan) if name == "activations" else meaning)
    table.add_section()
    for name, value in plan.need.phases.items():
        table.add_row(f"peak: {name}", size(value), "", style="bold" if value == plan.need.total else "")
    for name, value in list(plan.layouts.items())[1:]:
        table.add_row(f"with {name}", size(value), "arithmetic alone")
    out.print(table)


def _activations(plan: Plan) -> str:
    """What they are, what becomes of each layer's, and why."""
    return f"{PARTS['activations']}; {plan.layers} ({plan.layers.why})"


def _show_time(out: Console, plan: Plan) -> None:
    speed, steps = plan.speed, max(1, plan.case.work.steps)
    line = (
        f"time: {duration(speed.seconds)} ({duration(speed.step)} a step), {speed.flops / steps:.3g} operations a step"
    )
    if speed.reference:
        line += f"; the reference before: {duration(speed.reference)}"
    out.print(f"{line}; {speed.told}", markup=False)


def _verdict(plan: Plan) -> list[str]:
    from luthier.planning.free import size

    machine = plan.case.machine
    batch = f"the largest per_device_train_batch_size that fits is {plan.largest_batch:,}"
    if plan.fits:
        return [f"It fits: {size(plan.need.total)} of {size(machine.memory)}; {batch}"]
    lines = [f"It does not fit: {size(plan.need.total)} of {size(machine.memory)}"]
    if plan.largest_batch:
        lines[0] += f"; {batch}"
    for remedy in plan.remedies:
        lines.append(f"  {remedy}: {size(remedy.peak_memory_bytes)}, {remedy.slower:.2f} times as long")
    return lines if plan.remedies else [*lines, "  nothing that was tried makes it fit"]


def duration(seconds: float) -> str:
    """Seconds in words.

    Example:
        >>> duration(0.25), duration(90), duration(7200), duration(200_000)
        ('0.25 s', '1.5 min', '2.0 h', '2.3 days')
    """
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length and (unit != "days" or seconds >= 2 * length):
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.3g} s"
