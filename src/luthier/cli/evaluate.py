# SPDX-License-Identifier: Apache-2.0
"""Ask models suites of questions, score what they were trained for, and compare models on the same items.

MODEL is a run folder, an adapter, a transformers folder, a hub name or `embedded`; or a folder that an earlier
`--output` wrote, whose results are taken as they are. Of several models each is compared with the first one, item
by item. A suite is a shipped name (embedded, embedded-dev, embedded-math, embedded-preference), a JSONL file with
prompt and answer in each row, a YAML file (`suites/gsm8k.yaml`), or what such a file holds:
`--suite "{perplexity: book.txt}"`; docs/evaluate.md lists the kinds. --data is short for the kind `task`: rows as in
`data.eval` for models that label texts or words, answer from contexts or give vectors, as in `--data sst2_dev.csv` or
`--data "{path: sts.csv, format: pairs, columns: {sentence1: 0, sentence2: 1, score: 2}}"`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from luthier.core.errors import UserError
from luthier.core.start import large_imports


def main(  # noqa: PLR0913 - each is an option
    models: Annotated[
        list[str], typer.Argument(help="Run folders, models, or folders of results.", metavar="MODEL...")
    ],
    suite: Annotated[
        list[str] | None, typer.Option(help="Name, JSONL or YAML file, or {kind: rows}; may be given several times.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="File of labelled rows, or a source as in a recipe; may be given several times."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "--items", min=1, help="Only the first so many items.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for predictions-SUITE.jsonl and evaluation.json.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Items generated at a time.")] = 100,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest reply; default the suite's.")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt of items that have none.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """See the module's text."""
    from luthier.evaluate.results import Results, is_results, read_results

    earlier = {model: read_results(Path(model)) for model in models if is_results(Path(model))}
    if not suite and not data and len(earlier) < len(models):
        allowed = "--suite, --data or both"
        raise UserError("luthier evaluate", "no suite", allowed, "write --suite embedded, or --data rows.jsonl")
    if len(set(models)) < len(models):
        raise UserError("luthier evaluate", "a model twice", "each once", "leave one out")
    out = sys.stderr if as_json else sys.stdout
    suites = _suites(suite or [], limit)  # a wrong name answers before torch is imported
    words = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "system": system}
    found: list[Results] = []
    for model in models:
        if model in earlier:
            found.append(earlier[model])
            continue
        if len(models) > 1:
            print(f"{model}:", file=out)
        place = output / _folder(model) if output is not None and len(models) > 1 else output
        found.append(_one(model, suites, data or [], limit, place, words, (out, not as_json)))
    compared = _compared(found, out)
    if as_json:
        told: dict[str, Any] = {"model": models[0], "evaluation": found[0].evaluation}
        if len(models) > 1:
            told = {"results": [one.to_json() for one in found], "compared": compared}
        print(json.dumps(told, ensure_ascii=False))


def _suites(names: list[str], limit: int | None) -> list[Any]:
    from luthier.evaluate import load_suite

    suites = [load_suite(name, limit) for name in names]
    twice = [one.name for place, one in enumerate(suites) if one.name in [other.name for other in suites[:place]]]
    if twice:
        raise UserError("--suite", f"two suites called {twice[0]!r}", "names of their own", "add name: to one of them")
    return suites


def _one(
    model: str, suites: list[Any], data: list[str], limit: int | None, output: Path | None, words: Any, shown: Any
) -> Any:
    """Evaluate one model, say what came out, and write it."""
    from luthier.evaluate import evaluate, load_suite
    from luthier.evaluate.results import Results
    from luthier.recipe import source_of

    with large_imports():
        from luthier.run import load

    loaded, tokenizer = load(model)
    if data:
        from luthier.evaluate.trained import open_reader

        kind = open_reader(loaded, tokenizer, Path(model)).kind
        sources = [source_of(word, "--data").model_dump(exclude_defaults=True) for word in data]
        suites = [*suites, *(load_suite({"task": one, "name": _stem(one)}, limit, rows=kind) for one in sources)]
    evaluations: list[Any] = []
    for one in suites:
        evaluations.append(evaluate(loaded, tokenizer, one, folder=Path(model), **words))
        if output is not None:  # before it is said, and after each: `| head` or a fault in the next suite costs nothing
            Results.of(model, evaluations).write(output, evaluations)
        _say(evaluations[-1], *shown)
    return Results.of(model, evaluations)


def _say(found: Any, out: Any, wholly: bool) -> None:
    from luthier.evaluate.results import interval, number

    items, refused = len(found.judged.values), sum(found.suite.refused.values())
    told = f"{found.suite.name}: {found.judged.metric} {interval(found.judged.value, found.estimate)} of {items} items"
    print(f"{told}{f', {refused} refused' if refused else ''} ({found.seconds:.1f} s)", file=out)
    if not wholly:
        return
    for name, value in found.judged.metrics.items():
        if name != found.judged.metric:
            print(f"  {name:<24} {number(value)}")
    if found.macro is not None:
        print(f"  {'mean of categories':<24} {interval(found.macro.value, found.macro)}")
    for name, part in found.by_category.items():
        print(f"    {name:<22} {interval(found.parts[name].value, part)}  {len(found.parts[name].values)} items")
    for reason, count in found.suite.refused.items():
        print(f"  refused                  {count} rows: {reason}")


def _compared(found: list[Any], out: Any) -> list[dict[str, Any]]:
    """Each model against the first one, on suites that both were asked."""
    from luthier.evaluate.results import against

    told = against(found)
    if told:
        print(f"Differences from {found[0].model} on the same items (95 % interval; p corrected over all):", file=out)
    for row in told:
        ends = f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
        print(
            f"  {row['model']}  {row['suite']} {row['metric']}  {ends}  p {row['p_holm']:.3g}: {row['verdict']}",
            file=out,
        )
    return told


def _folder(model: str) -> str:
    """Where results of one of several models go."""
    return model.strip("/").replace("/", "-").lstrip(".-") or "model"


def _stem(source: dict[str, Any]) -> str:
    return Path(str(source["path"]).replace(":", "-")).stem
