# SPDX-License-Identifier: Apache-2.0
"""Compare LoRA, rsLoRA and full fine-tuning on the built-in model, offline, in about two minutes.

Words of the form key=value override the study: `luthier demo base.train.max_steps=20 --items 100` is a quick look.
A second call uses the runs that are there; --overwrite does them again. --full measures ranks, learning rates and
amounts of data over several seeds in 51 runs; it takes about ten times as long.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from luthier.core.start import large_imports


def main(
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value words.", metavar="[KEY=VALUE]...")] = None,
    full: Annotated[bool, typer.Option("--full", help="Ranks, learning rates and data, over several seeds.")] = False,
    output: Annotated[Path | None, typer.Option(help="Where to write; default runs/demo or runs/demo-full.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed than 0.")] = None,
    items: Annotated[int | None, typer.Option(min=1, help="Only the first so many of 600 test items.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do every run again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """See the module's text."""
    from luthier.engine.distributed import refuse_several

    refuse_several("luthier demo")
    with large_imports():
        from luthier.study.demo import run_demo, run_full, samples, to_json
    from luthier.web.page import write_page
    from luthier.web.picture import add_picture

    given: dict[str, Any] = {
        "folder": output,
        "seed": seed,
        "items": items,
        "overwrite": overwrite,
        "say": lambda line: print(line, file=sys.stderr),
        "callbacks": () if quiet else ("progress",),
    }
    parts = run_full(overrides or (), **given) if full else [run_demo(overrides or (), **given)]
    trees = [to_json(part) for part in parts]
    for tree in trees:
        add_picture(tree)
    folder = parts[0].result.folder.parent if full else parts[0].result.folder
    page = write_page(folder)
    if as_json:
        print(json.dumps({"parts": trees} if full else trees[0], ensure_ascii=False))
    else:
        from luthier.cli._table import console, show_samples, show_study

        out = console()
        for part in parts:
            if not full:
                show_samples(out, *samples(part.result))
            show_study(out, part.result, part.conclusion)
            out.print()
        out.print(f"Written: {page}, {folder / 'report.md'} (every reply stands beside its run)", markup=False)
    if any(part.result.failed for part in parts):
        raise typer.Exit(1)
