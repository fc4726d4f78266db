# SPDX-License-Identifier: Apache-2.0
"""Show rows as the model will see them, what is scored, and what was refused.

TARGET is a data file or folder, or a YAML recipe; words of the form key=value override the recipe:
`luthier data rows.jsonl`, `luthier data recipe.yaml data.max_length=512`. Scored tokens stand between ⟦ and ⟧.
Of judged rows (preference pairs and their like) the prompt is shown, and each answer with its grade; of rows that are
read and not written their labels, the tag below each word, the answer in its context, or each text.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli._rows import show, told

if TYPE_CHECKING:
    from rich.console import Console

    from luthier.core.tasks import Labels, RowKind
    from luthier.core.types import Tree
    from luthier.data import Prepared
    from luthier.recipe.schema import Data


def main(
    target: Annotated[str, typer.Argument(help="A data file, a folder, a hub name, or a YAML recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value words.", metavar="[KEY=VALUE]...")] = None,
    model: Annotated[str | None, typer.Option(help="Whose tokenizer; it needs no weights. [default: embedded]")] = None,
    rows: Annotated[int, typer.Option(min=0, help="How many rows to show.")] = 3,
    evaluation: Annotated[bool, typer.Option("--eval", help="Look at data.eval instead of data.train.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """See the module's text."""
    from luthier.data import ledger, prepare
    from luthier.models import load_tokenizer
    from luthier.recipe import load_recipe
    from luthier.recipe.tasks import rows_of, task_of

    is_recipe = target.lower().endswith((".yaml", ".yml"))
    start: Any = target if is_recipe else {"model": {"model_name_or_path": "embedded"}, "data": {"train": target}}
    chosen = [f"model.model_name_or_path={model}"] if model else []
    resolved = load_recipe(start, [*(overrides or ()), *chosen])
    for note in resolved.notes:
        print(note, file=sys.stderr)
    recipe = resolved.recipe
    named = recipe.model
    words = (named.model_name_or_path, named.model_revision, named.trust_remote_code)
    tokenizer = load_tokenizer(*words, alone=True)
    # the ledger is worth most where too much was refused, so it is shown first and held to the tolerance afterwards
    lenient = recipe.data.model_copy(update={"refused_tolerance": 1.0})
    kind: RowKind | None = None  # a file alone says itself what it is
    if is_recipe or any(word.startswith("objective") for word in overrides or ()):
        kind = rows_of(recipe.objective["name"])
    asked = recipe.objective.get("problem_type", "auto")
    prepared = prepare(
        lenient,
        tokenizer,
        which="eval" if evaluation else "train",
        kind=kind,
        task=task_of(recipe),
        problem=None if asked == "auto" else asked,
        say=lambda line: print(line, file=sys.stderr),
    )
    trees = [prepared.rows.tree(row) for row in range(min(rows, len(prepared.rows)))]
    if as_json:
        shown = [told(tree, prepared.rows.kind, prepared.labels, tokenizer) for tree in trees]
        document = {"rows": shown, "ledger": prepared.ledger.to_json(), "lengths": _lengths(prepared, recipe.data)}
        if prepared.labels is not None:
            document["labels"] = _counts(prepared.labels)
        print(json.dumps(document, ensure_ascii=False))
    else:
        _show(prepared, trees, tokenizer, recipe.data)
    ledger.check(prepared.ledger.accounts, recipe.data.refused_tolerance)


def _lengths(prepared: Prepared, data: Data) -> dict[str, Any]:
    import numpy as np

    from luthier.data.pack import best_fit, fill

    lengths = prepared.rows.lengths
    found = {
        "mean": round(float(lengths.mean()), 1),
        "median": int(np.median(lengths)),
        "longest": int(lengths.max()),
        "max_length": data.max_length,
    }
    rows = prepared.rows
    if rows.kind == "judged":
        apart = int((lengths + rows.prompts * (rows.answers - 1)).sum())
        found |= {"tokens": int(lengths.sum()), "tokens_unshared": apart}
    elif data.packing and not rows.judged:
        bins = best_fit(lengths, data.max_length)
        found |= {"bins": len(bins), "fill": round(fill(lengths, bins, data.max_length), 4)}
    return found


def _show(prepared: Prepared, trees: list[Tree], tokenizer: Any, data: Data) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for tree in trees:
        show(told(tree, prepared.rows.kind, prepared.labels, tokenizer), console)
    _show_ledger(prepared, console)
    lengths = _lengths(prepared, data)
    console.print(f"\nlengths: mean {lengths['mean']}, median {lengths['median']}, longest {lengths['longest']}")
    if prepared.labels is not None and prepared.labels.counts:
        counts = ", ".join(f"{name} {count:,}" for name, count in _counts(prepared.labels).items())
        console.print(f"labels: {counts}", markup=False)
    if "bins" in lengths:
        console.print(f"packing: {lengths['bins']:,} bins of {data.max_length} tokens, {lengths['fill']:.1%} full")
    if "tokens_unshared" in lengths:
        once, apart = f"{lengths['tokens']:,}", f"{lengths['tokens_unshared']:,}"
        how = f"once for all answers: {once} tokens, {apart} otherwise"
        console.print(f"prompts: {how if data.share_prompts else f'once for each answer: {apart} tokens'}")


def _counts(labels: Labels) -> dict[str, int]:
    return dict(zip(labels.names, labels.counts or (0,) * len(labels), strict=True))


def _show_ledger(prepared: Prepared, console: Console) -> None:
    from rich.table import Table

    accounts = prepared.ledger.accounts
    counts = {"windows": "windows", "answers": "answers", "truncated": "cut", "refused_rows": "refused"}
    counts |= {"tokens": "tokens", "scored_tokens": "scored", "labelled": "labelled"}
    if all(account.windows == account.kept for account in accounts):
        del counts["windows"]
    for name in ("answers", "scored_tokens", "labelled"):
        if not any(getattr(account, name) for account in accounts):
            del counts[name]
    counts = {"read": "read", "kept": "kept"} | counts
    if prepared.rows.kind == "texts":
        counts["answers"] = "texts"
    table = Table("source", "format", *counts.values(), title="ledger", title_justify="left")
    table.columns[0].overflow = "fold"
    for column in table.columns[2:]:
        column.justify = "right"
    for account in accounts:
        table.add_row(account.source, account.format, *(f"{getattr(account, name):,}" for name in counts))
    console.print(table)
    for account in prepared.ledger.accounts:
        for line in account.told():
            console.print(f"{account.source}: {line}", markup=False)
