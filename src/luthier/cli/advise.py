# SPDX-License-Identifier: Apache-2.0
"""Say what to start from for your model, rows and memory: each value with its reason, its source, how sure it is.

TARGET is a model (a transformers folder, a hub name, `embedded`; its configuration and tokenizer are enough) or a YAML
recipe: `luthier advise meta-llama/Llama-3.1-8B --data rows.jsonl --memory 24GB --write first.yaml`.
A recipe's own values stand beside the advice; it is never changed. Nothing is applied until you train what was written.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from luthier.advise import Advised
    from luthier.recipe import Recipe

PLACEHOLDER = "rows.jsonl"  # stands in a recipe whose rows were not named


def main(
    target: Annotated[str, typer.Argument(help="A transformers folder, a hub name, embedded, or a YAML recipe.")],
    data: Annotated[str | None, typer.Option(help="The training rows: a file, a folder or a hub data set.")] = None,
    memory: Annotated[str | None, typer.Option(help="As in 24GB. [default: what is free here]")] = None,
    device: Annotated[str | None, typer.Option(help="cuda or cpu. [default: what is here]")] = None,
    objective: Annotated[str | None, typer.Option(help="sft, dpo ... [default: the recipe's, or by the rows]")] = None,
    method: Annotated[str | None, typer.Option(help="Hold to this method. [default: the advice says which]")] = None,
    write: Annotated[Path | None, typer.Option("--write", help="Write the recipe to this file, which is new.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """See the module's text."""
    from luthier.recipe import load_recipe
    from luthier.recipe.text import parse

    is_recipe = target.lower().endswith((".yaml", ".yml"))
    chosen = [f"data.train={json.dumps(data)}"] if data else []
    start: Any = target if is_recipe else {"model": {"model_name_or_path": target}, "data": {"train": PLACEHOLDER}}
    resolved = load_recipe(start, [*chosen, *([f"objective={objective}"] if objective else [])])
    from luthier.advise.advice import advise, to_yaml  # a wrong key has answered before torch is imported
    from luthier.advise.look import gather, look_at_machine

    for note in resolved.notes:
        _say(note)
    recipe = resolved.recipe
    facts = gather(
        recipe.model,
        recipe.data if is_recipe or data else None,
        look_at_machine(memory, device),
        objective=recipe.objective["name"] if is_recipe or objective else None,
        method=method,
        say=_say,
    )
    advised = advise(facts)
    tree = advised.tree({"output_dir": "runs/advised"} | parse(resolved.given_yaml()))
    head = "luthier advise: starting values, not tuned ones; behind each stands who says so and how sure it is"
    text = to_yaml(tree, advised, head)
    if write is not None:
        _write(write, text)
    if as_json:
        print(json.dumps(_document(advised, tree, recipe if is_recipe else None), ensure_ascii=False))
        return
    _show(advised, recipe if is_recipe else None)
    if write is None:
        sys.stdout.write(f"\n{text}")
    else:
        _say(f"written to {write}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write(file: Path, text: str) -> None:
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise UserError(str(file), "is there already", "a new file", "choose another name") from None
    except OSError as error:
        raise UserError(str(file), f"cannot be written ({error})", "a file in a folder that is there") from None


def _document(advised: Advised, tree: dict[str, Any], recipe: Recipe | None) -> dict[str, Any]:
    """Everything, as plain data."""
    given = advised.differences(recipe) if recipe else {}
    rows = []
    for row in advised.rows:
        own = {"recipe": given[row.key][0], "agrees": given[row.key][1]} if recipe else {}
        rows.append(row.to_json() | own)
    fit = advised.choice.fit
    needed = {
        "weights": fit.weights,
        "step": fit.total - fit.weights,
        "total": fit.total,
        "memory": fit.memory,
        "fits": fit.ok,
    }
    facts = advised.facts.to_json()
    return {
        "facts": facts,
        "advice": rows,
        "memory": needed,
        "notes": [*advised.notes, *(advised.remarks(recipe) if recipe else [])],
        "recipe": tree,
    }


def _show(advised: Advised, recipe: Recipe | None) -> None:
    from luthier.advise.value import SURE
    from luthier.cli._table import console

    out = console()
    for line in _facts(advised):
        out.print(line, markup=False)
    out.print()
    _show_rows(out, advised, recipe)
    for note in (*advised.notes, *(advised.remarks(recipe) if recipe else [])):
        out.print(f"- {note}", markup=False)
    for level, meaning in SURE.items():
        out.print(f"- {level}: {meaning}", style="dim", markup=False)


def _facts(advised: Advised) -> list[str]:
    """Model, rows and machine, a line each."""
    facts, fit = advised.facts, advised.choice.fit
    model, data, machine = facts.model, facts.data, facts.machine
    lines = [f"model: {model.name}, {model.parameters:,} parameters, {model.layers} layers of {model.hidden_size:,}"]
    if data is not None:
        about = "about " if data.estimated else ""
        one = f"of a whole one {data.mean:.0f} in the mean; of its prompt and an answer" if data.judged else "of one"
        mean = "" if data.judged else f"{data.mean:.0f} in the mean, "
        quantiles = f"{mean}{data.median:,} median, {data.p95:,} at 95 %, {data.longest:,} at most"
        lines.append(f"rows: {about}{data.rows:,}; tokens {one} {quantiles}")
    lines.append(
        f"memory: {fit.memory / 2**30:.1f} GiB ({machine.told}) on {machine.device}; objective: {facts.objective}"
    )
    return lines


def _show_rows(out: Console, advised: Advised, recipe: Recipe | None) -> None:
    from rich.markup import escape
    from rich.table import Table

    from luthier.recipe.text import one_line

    given = advised.differences(recipe) if recipe else {}
    table = Table("key", "advice", *(["recipe"] if recipe else []), "reason", "source", "sure", header_style="bold")
    for row in advised.rows:
        own, style = [], ""
        if recipe:
            value, same = given[row.key]
            own = ["same" if same else "–" if value is None else escape(one_line(value))]
            style = "" if same else "bold"
        cells = (row.key, escape(one_line(row.value)), *own, escape(row.reason), escape(row.told_sources()), row.sure)
        table.add_row(*cells, style=style)
    out.print(table)
