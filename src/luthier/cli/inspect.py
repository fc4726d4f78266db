# SPDX-License-Identifier: Apache-2.0
"""Show what a model is made of, and what each choice of target_modules would train.

MODEL is a transformers folder, a hub name or `embedded`; its configuration is enough, no weights are read:
`luthier inspect meta-llama/Llama-3.1-8B --r 64`. Layers that repeat are shown once, with their numbers.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from luthier.models.anatomy import Anatomy, Choice

ORDER = ("embedding", "attention", "mlp", "norm", "other", "head")
COLOURS = {"embedding": "cyan", "attention": "green", "mlp": "yellow", "norm": "dim", "head": "magenta", "other": ""}


def main(
    model: Annotated[str, typer.Argument(help="A transformers folder, a hub name, or embedded.")],
    r: Annotated[int, typer.Option("--r", min=1, help="Rank for which the choices are counted.")] = 16,
    revision: Annotated[str | None, typer.Option(help="Hub revision.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """See the module's text."""
    from luthier.models.anatomy import dissect

    anatomy = dissect(model, r, revision, trust_remote_code)
    if as_json:
        print(json.dumps(anatomy.to_json(), ensure_ascii=False))
    else:
        _show(anatomy)


def _show(anatomy: Anatomy) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)  # a file or a pipe has no width; names must not be cut
    tied = "head and embedding are one matrix" if anatomy.tied else "head and embedding are two matrices"
    told = tied if anatomy.task.endswith("LM") else f"for {anatomy.task}"
    console.print(
        f"{anatomy.architecture} ({anatomy.model_type}): {anatomy.parameters:,} parameters; {told}", style="bold"
    )
    for line in _sentences(anatomy.facts):
        console.print(line, markup=False)
    console.print()
    _show_parts(console, anatomy)
    console.print()
    _show_choices(console, anatomy)


def _sentences(facts: dict[str, Any]) -> list[str]:
    """The facts in words, those that are there."""
    shared = "" if facts["key_value_heads"] == facts["heads"] else f", {facts['key_value_heads']} key-value heads"
    lines = [
        f"{facts['layers']} layers of {facts['hidden_size']}, vocabulary {facts['vocabulary']:,}, "
        f"{facts['heads']} heads of {facts['head_size']}{shared}"
    ]
    if facts["window"]:
        lines.append(
            f"sliding window of {facts['window']:,} tokens in {facts['windowed_layers']} of {facts['layers']} layers"
        )
    caps = {"attention scores": facts["attention_soft_cap"], "logits": facts["logit_soft_cap"]}
    lines += [f"soft cap of {cap:g} on the {what}" for what, cap in caps.items() if cap]
    if facts["positions"]:
        rope = f", rope {facts['rope']}" if facts["rope"] else ""
        lines.append(f"{facts['positions']:,} positions{rope}")
    if facts["experts"]:
        lines.append(f"{facts['experts']} experts a layer")
    return lines


def _show_parts(console: Any, anatomy: Anatomy) -> None:
    from rich.table import Table

    table = Table("kind", "modules", "type", "weight", "number", "parameters", "share", box=None, header_style="bold")
    table.columns[1].overflow = "fold"
    for column in table.columns[4:]:
        column.justify = "right"
    for part in sorted(anatomy.parts, key=lambda part: ORDER.index(part.kind)):
        shape = " x ".join(map(str, part.shape)) + (" + bias" if part.bias else "")
        of_all = f"{part.parameters / anatomy.parameters:.2%}" if part.parameters else "tied"
        counted = [f"{part.count:,}", f"{part.parameters:,}", of_all]
        table.add_row(part.kind, part.name, part.type, shape, *counted, style=COLOURS[part.kind])
    console.print(table)
    frozen = [part for part in anatomy.parts if len(part.shape) == 3 and part.kind == "mlp" and not part.adaptable]
    if frozen:
        share = sum(part.parameters for part in frozen) / anatomy.parameters
        names = ", ".join(part.name for part in frozen)
        console.print(
            f"not adaptable by LoRA yet: {names} hold all experts of a layer in one ({share:.1%} of the model)",
            style="red",
            markup=False,
        )


def _show_choices(console: Any, anatomy: Anatomy) -> None:
    from rich.table import Table

    title = f"LoRA at r = {anatomy.r}: parameters, float32 adapter on disk, adapter + gradients + AdamW in training"
    table = Table("target_modules", "modules", "trained", "of the base", "on disk", "in training", "", title=title)
    table.title_justify, table.box = "left", None
    for column in table.columns[1:6]:
        column.justify = "right"
    for choice in anatomy.choices:
        table.add_row(
            _written(choice.target_modules),
            f"{choice.modules:,}",
            f"{choice.trained:,}",
            f"{choice.share:.3%}",
            _size(choice.disk_bytes),
            _size(choice.training_bytes),
            _note(choice, anatomy.r),
        )
    console.print(table)


def _written(words: str | tuple[str, ...]) -> str:
    return words if isinstance(words, str) else rf"\[{', '.join(words)}]"


def _note(choice: Choice, r: int) -> str:
    notes = [choice.note] if choice.note else []
    if choice.exclude_modules:
        notes.append(f"with exclude_modules: {_written(choice.exclude_modules)}")
    if choice.too_small:
        more = f" and {len(choice.too_small) - 1} more" if len(choice.too_small) > 1 else ""
        notes.append(f"r = {r} is too large for {choice.too_small[0]}{more}: lower it, or use rank_pattern")
    return "; ".join(notes)


def _size(count: int) -> str:
    """Bytes in words.

    Example:
        >>> _size(999), _size(2_500_000)
        ('999 B', '2.5 MB')
    """
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.2f} GB"
