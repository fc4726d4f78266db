# SPDX-License-Identifier: Apache-2.0
"""Train as a recipe says.

RECIPE is a YAML file; words of the form key=value override it:
`luthier train recipes/sft-lora.yaml method.r=64 data.train=my.jsonl`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def main(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value words.", metavar="[KEY=VALUE]...")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in output_dir.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run in output_dir.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """See the module's text."""
    from luthier.recipe import load_recipe

    resolved = load_recipe(recipe, overrides or ())  # a wrong key answers before torch is imported for the model
    from luthier.run import train

    result = train(
        resolved,
        resume=resume,
        overwrite=overwrite,
        say=lambda line: print(line, file=sys.stderr),
        callbacks=() if quiet else ("progress",),
    )
    if as_json:
        print(json.dumps(result.summary, ensure_ascii=False))
        return
    summary = result.summary
    print(f"{summary['steps']} steps, {summary['tokens']:,} tokens in {summary['seconds']:.1f} s, "
          f"loss {summary['final_loss']:.4f}; written to {result.folder / result.trainable.folder}")
