# SPDX-License-Identifier: Apache-2.0
"""Train as a recipe says.

RECIPE is a YAML file; words of the form key=value override it:
`luthier train recipes/sft-lora.yaml method.r=64 data.train=my.jsonl`.
Recipes of TRL, LLaMA-Factory and Axolotl run too; their own keys override them, and what was made of each is said.
Ctrl-C saves a checkpoint and prints the command that goes on; a second one stops at once.
"""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from luthier.core.errors import Interrupted, RunFailed
from luthier.core.start import large_imports


def main(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value words.", metavar="KEY=VALUE")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in output_dir.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run in output_dir.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and tell; train nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """See the module's text."""
    from luthier.recipe import load_recipe

    resolved = load_recipe(recipe, overrides or ())  # a wrong key answers before torch is imported for the model
    from luthier.engine.distributed import place_here

    with large_imports():
        from luthier.run import preview, train

    first = place_here().first  # under torchrun one process speaks for all
    for note in resolved.notes if first else ():
        _say(note)
    if dry_run:
        found = preview(resolved, say=_say if first else lambda _: None)
        if first:
            _show(found, as_json)
        return
    again = shlex.join(["luthier", "train", str(recipe), *(overrides or ()), "--resume", *["--quiet"] * quiet])
    if place_here().world > 1:
        again = "the same torchrun command and --resume"
    try:
        result = train(resolved, resume=resume, overwrite=overwrite, say=_say, callbacks=() if quiet else ("progress",))
    except (Interrupted, KeyboardInterrupt) as stop:
        # torchrun's SIGTERM may come while the reason for the end is on its way out: the reason counts
        told = stop if isinstance(stop, Interrupted) else stop.__context__
        if isinstance(told, RunFailed):
            raise told from None
        if isinstance(told, Interrupted):
            raise Interrupted(told.where, told.received, fix=f"go on with: {again}") from None
        where = resolved.recipe.output_dir
        raise Interrupted(where, "stopped at once", "what was saved before is whole", f"go on with: {again}") from None
    if not first:
        return
    summary = result.summary
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
        return
    print(
        f"{summary['steps']} steps, {summary['tokens']:,} tokens in {summary['seconds']:.1f} s, "
        f"loss {summary['final_loss']:.4f}; written to {result.folder / result.trainable.folder}"
    )


def _show(found: dict[str, object], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:<{width}}  {format(value, ',') if isinstance(value, int | float) else value}")


def _say(line: str) -> None:
    with suppress(OSError):  # `2>&1 | head` or a closed terminal must not end hours of training
        print(line, file=sys.stderr, flush=True)
