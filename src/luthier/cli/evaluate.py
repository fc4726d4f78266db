# SPDX-License-Identifier: Apache-2.0
"""Ask a model a suite of questions and count the exact answers.

MODEL is a run folder, an adapter, a transformers folder, a hub name or `embedded`. A suite is one of the shipped names
(embedded, embedded-dev, embedded-math, embedded-preference) or a JSONL file with prompt and answer in each row.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def main(
    model: Annotated[str, typer.Argument(help="A run folder or a model.")],
    suite: Annotated[list[str], typer.Option(help="Suite name or JSONL file; may be given several times.")],
    items: Annotated[int | None, typer.Option(min=1, help="Only the first so many items.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for predictions-SUITE.jsonl.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Items generated at a time.")] = 100,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 32,
    system: Annotated[str | None, typer.Option(help="System prompt of items that have none.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON on stdout.")] = False,
) -> None:
    """See the module's text."""
    from luthier.evaluate import evaluate, load_suite

    suites = [load_suite(name, items) for name in suite]  # a wrong name answers before torch is imported
    from luthier.run import load

    loaded, tokenizer = load(model)
    scores = {}
    for one in suites:
        found = evaluate(loaded, tokenizer, one, batch_size=batch_size, max_new_tokens=max_new_tokens, system=system)
        scores[one.name] = found.to_json()
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            found.write(output / f"predictions-{one.name}.jsonl")
        said = f"{one.name}: {found.score.value:.3f} ± {found.score.stderr:.3f} of {found.score.items} items"
        print(f"{said} ({found.seconds:.1f} s)", file=sys.stderr if as_json else sys.stdout)
        for name, part in ({} if as_json else found.score.by_category).items():
            print(f"  {name:<16} {part.value:.3f} ± {part.stderr:.3f}  {part.items} items")
    if as_json:
        print(json.dumps({"model": model, "evaluation": scores}, ensure_ascii=False))
