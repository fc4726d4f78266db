# SPDX-License-Identifier: Apache-2.0
"""Show rows as the model will see them, what is scored, and what was refused.

TARGET is a data file or folder, or a YAML recipe; words of the form key=value override the recipe:
`luthier data rows.jsonl`, `luthier data recipe.yaml data.max_length=512`. Scored tokens stand between ⟦ and ⟧.
Of judged rows (preference pairs and their like) the prompt is shown, and each answer with its grade.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from luthier.core.tasks import RowKind
    from luthier.core.types import Segment, Tree
    from luthier.data import Prepared
    from luthier.recipe.schema import Data

OPEN, CLOSE = "⟦", "⟧"  # rare in data, so that they are not mistaken for it


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
    from luthier.recipe.tasks import rows_of

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
    prepared = prepare(
        lenient,
        tokenizer,
        which="eval" if evaluation else "train",
        kind=kind,
        say=lambda line: print(line, file=sys.stderr),
    )
    trees = [prepared.rows.tree(row) for row in range(min(rows, len(prepared.rows)))]
    if as_json:
        shown = [_row(tree, tokenizer) for tree in trees]
        told = {"rows": shown, "ledger": prepared.ledger.to_json(), "lengths": _lengths(prepared, recipe.data)}
        print(json.dumps(told, ensure_ascii=False))
    else:
        _show(prepared, trees, tokenizer, recipe.data)
    ledger.check(prepared.ledger.accounts, recipe.data.refused_tolerance)


def _row(tree: Tree, tokenizer: Any) -> dict[str, Any]:
    """Tell one row: its runs of scored and other tokens as text, and its ids; of a judged row those of each answer."""
    first, *answers = tree.segments
    told = {
        "row": tree.row,
        "tokens": len(tree),
        "scored_tokens": sum(int(part.scored.sum()) for part in tree.segments),
    }
    if not answers:
        return told | _runs(first, [], tokenizer)
    before = first.ids.tolist()
    scores = tree.scores[1:] or [None] * len(answers)
    judged = [
        {"grade": grade, "score": score} | _runs(answer, before, tokenizer)
        for answer, grade, score in zip(answers, tree.grades[1:], scores, strict=True)
    ]
    return told | {"prompt": _runs(first, [], tokenizer), "answers": judged}


def _runs(segment: Segment, before: list[int], tokenizer: Any) -> dict[str, Any]:
    """Tell the runs of one segment that comes after the tokens `before`."""
    ids, scored = segment.ids.tolist(), segment.scored.tolist()
    edges = [0, *(i for i in range(1, len(ids)) if scored[i] != scored[i - 1]), len(ids)]
    # the text of a run is what it adds to the text before it: decoded alone, SentencePiece drops its leading space
    texts = [tokenizer.decode([*before, *ids[:edge]], clean_up_tokenization_spaces=False) for edge in edges]
    runs = [
        {"text": texts[i + 1][len(texts[i]) :], "scored": scored[edges[i]], "tokens": edges[i + 1] - edges[i]}
        for i in range(len(edges) - 1)
    ]
    return {"runs": runs, "ids": ids}


def _lengths(prepared: Prepared, data: Data) -> dict[str, Any]:
    import numpy as np

    from luthier.data.pack import best_fit, fill

    lengths = prepared.rows.lengths
    told = {
        "mean": round(float(lengths.mean()), 1),
        "median": int(np.median(lengths)),
        "longest": int(lengths.max()),
        "max_length": data.max_length,
    }
    rows = prepared.rows
    if rows.judged:
        apart = int((lengths + rows.prompts * (rows.answers - 1)).sum())
        told |= {"tokens": int(lengths.sum()), "tokens_unshared": apart}
    elif data.packing:
        bins = best_fit(lengths, data.max_length)
        told |= {"bins": len(bins), "fill": round(fill(lengths, bins, data.max_length), 4)}
    return told


def _show(prepared: Prepared, trees: list[Tree], tokenizer: Any, data: Data) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for tree in trees:
        row = _row(tree, tokenizer)
        judged = row.get("answers", [])
        many = f", {len(judged)} answer{'s' if len(judged) > 1 else ''}" if judged else ""
        console.rule(f"{row['row']}: {row['tokens']:,} tokens, {row['scored_tokens']:,} scored{many}", align="left")
        console.print(_marked(row["prompt"] if judged else row))
        for number, answer in enumerate(judged, 1):
            score = "" if answer["score"] is None else f", score {answer['score']:g}"
            head = f"answer {number}, grade {answer['grade']:g}{score}, {len(answer['ids']):,} tokens: "
            console.print(Text(head, "bold").append_text(_marked(answer)))
    _show_ledger(prepared, console)
    lengths = _lengths(prepared, data)
    console.print(f"\nlengths: mean {lengths['mean']}, median {lengths['median']}, longest {lengths['longest']}")
    if "bins" in lengths:
        console.print(f"packing: {lengths['bins']:,} bins of {data.max_length} tokens, {lengths['fill']:.1%} full")
    if "tokens_unshared" in lengths:
        once, apart = f"{lengths['tokens']:,}", f"{lengths['tokens_unshared']:,}"
        how = f"once for all answers: {once} tokens, {apart} otherwise"
        console.print(f"prompts: {how if data.share_prompts else f'once for each answer: {apart} tokens'}")


def _marked(told: dict[str, Any]) -> Text:
    from rich.text import Text

    text = Text()
    for run in told["runs"]:
        text.append(f"{OPEN}{run['text']}{CLOSE}" if run["scored"] else run["text"], "green" if run["scored"] else "")
    return text


def _show_ledger(prepared: Prepared, console: Console) -> None:
    from rich.table import Table

    judged = prepared.rows.judged
    names = ("source", "format", "read", "kept", *(["answers"] if judged else []), "cut", "refused", "tokens", "scored")
    table = Table(*names, title="ledger", title_justify="left")
    table.columns[0].overflow = "fold"
    for column in table.columns[2:]:
        column.justify = "right"
    for account in prepared.ledger.accounts:
        answers = [account.answers] if judged else []
        rows = (account.read, account.kept, *answers, account.truncated, account.refused_rows)
        counts = (*rows, account.tokens, account.scored_tokens)
        table.add_row(account.source, account.format, *(f"{count:,}" for count in counts))
    console.print(table)
    for account in prepared.ledger.accounts:
        for line in account.told():
            console.print(f"{account.source}: {line}", markup=False)
