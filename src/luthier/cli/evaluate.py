# SPDX-License-Identifier: Apache-2.0
"""Ask a model a suite of questions and count the exact answers, or judge what it was trained for on labelled rows.

MODEL is a run folder, an adapter, a transformers folder, a hub name or `embedded`. A suite is one of the shipped names
(embedded, embedded-dev, embedded-math, embedded-preference) or a JSONL file with prompt and answer in each row. --data
is for models that label texts or words, answer from contexts or give vectors: a file as in `data.eval`, judged by the
task's own metrics with a 95 % interval. `luthier evaluate runs/sst --data sst2_dev.csv`, or as in a recipe:
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
    model: Annotated[str, typer.Argument(help="A run folder or a model.")],
    suite: Annotated[
        list[str] | None, typer.Option(help="Suite name or JSONL file; may be given several times.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="File of labelled rows, or a source as in a recipe; may be given several times."),
    ] = None,
    items: Annotated[int | None, typer.Option(min=1, help="Only the first so many items.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for predictions-SUITE.jsonl.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Items generated at a time.")] = 100,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 32,
    system: Annotated[str | None, typer.Option(help="System prompt of items that have none.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON on stdout.")] = False,
) -> None:
    """See the module's text."""
    if bool(suite) == bool(data):
        received = "both" if suite else "neither"
        raise UserError("--suite and --data", received, "one of them", "write --suite embedded, or --data rows.jsonl")
    if data:
        scores = _tasks(model, data, items, output, as_json)
    else:
        words = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "system": system}
        scores = _suites(model, suite or [], items, output, as_json, words)
    if as_json:
        print(json.dumps({"model": model, "evaluation": scores}, ensure_ascii=False))


def _suites(
    model: str, suite: list[str], items: int | None, output: Path | None, as_json: bool, words: dict[str, Any]
) -> dict[str, Any]:
    from luthier.evaluate import evaluate, load_suite

    suites = [load_suite(name, items) for name in suite]  # a wrong name answers before torch is imported
    with large_imports():
        from luthier.run import load

    loaded, tokenizer = load(model)
    scores = {}
    for one in suites:
        found = evaluate(loaded, tokenizer, one, **words)
        scores[one.name] = found.to_json()
        _keep(found, output, one.name)
        said = f"{one.name}: {found.score.value:.3f} ± {found.score.stderr:.3f} of {found.score.items} items"
        print(f"{said} ({found.seconds:.1f} s)", file=sys.stderr if as_json else sys.stdout)
        for name, part in ({} if as_json else found.score.by_category).items():
            print(f"  {name:<16} {part.value:.3f} ± {part.stderr:.3f}  {part.items} items")
    return scores


def _tasks(model: str, data: list[str], items: int | None, output: Path | None, as_json: bool) -> dict[str, Any]:
    with large_imports():
        from luthier.evaluate.samples import read_samples
        from luthier.evaluate.trained import evaluate_task, open_reader
        from luthier.recipe import source_of
        from luthier.run import load

    sources = [source_of(word, "--data") for word in data]
    reader = open_reader(*load(model), Path(model))
    scores = {}
    for source in sources:
        found = evaluate_task(reader, read_samples(source, reader.kind, items))
        scores[found.suite] = found.to_json()
        _keep(found, output, found.suite)
        one, rows = found.estimate, f"{len(found.predictions)} rows"
        refused = f", {sum(found.refused.values())} refused" if found.refused else ""
        said = (
            f"{found.suite}: {found.judged.metric} {one.value:.4f} [{one.low:.4f}, {one.high:.4f}] of {rows}{refused}"
        )
        print(f"{said} ({found.seconds:.1f} s)", file=sys.stderr if as_json else sys.stdout)
        for name, value in ({} if as_json else found.judged.metrics).items():
            print(f"  {name:<16} {value:.4f}")
        for reason, count in ({} if as_json else found.refused).items():
            print(f"  refused          {count} rows: {reason}")
    return scores


def _keep(found: Any, output: Path | None, name: str) -> None:
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        found.write(output / f"predictions-{name}.jsonl")
