# SPDX-License-Identifier: Apache-2.0
"""Run the variants of a study on the same examples and compare them.

STUDY is a YAML file (docs/compare.md); words of the form key=value override it:
`luthier compare studies/demo.yaml seeds=[0,1,2] base.train.max_steps=50`. What is done already is not done again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from luthier.core.errors import Interrupted
from luthier.core.start import large_imports


def main(
    study: Annotated[Path, typer.Argument(help="A YAML study.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value words.", metavar="[KEY=VALUE]...")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do every run again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
    on: Annotated[str, typer.Option(help="here, or ray: each run a task of a Ray cluster.")] = "here",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """See the module's text."""
    from luthier.engine.distributed import refuse_several
    from luthier.study import load_study

    refuse_several("luthier compare")
    checked = load_study(study, overrides or ())  # a wrong key answers before torch is imported
    with large_imports():
        from luthier.study import compare
    from luthier.study.conclude import sentence
    from luthier.web.page import write_page
    from luthier.web.picture import add_picture

    try:
        result = compare(
            checked,
            overwrite=overwrite,
            say=lambda line: print(line, file=sys.stderr),
            callbacks=() if quiet else ("progress",),
            on=on,
        )
    except Interrupted:
        write_page(Path(checked.output_dir))  # what there is so far
        raise
    tree = result.to_json()
    add_picture(tree)
    page = write_page(result.folder)
    if as_json:
        print(json.dumps(tree, ensure_ascii=False))
    else:
        from luthier.cli._table import console, show_study

        out = console()
        show_study(out, result, [line] if (line := sentence(result)) else [])
        out.print(f"Written: {page}, {result.folder / 'report.md'}", markup=False)
    if result.failed:
        raise typer.Exit(1)
