# SPDX-License-Identifier: Apache-2.0
"""Merge an adapter into its base model, and prove that the result is what was trained.

SOURCE is a run folder or a PEFT adapter folder of any origin. The merged model is written as a plain transformers
folder, read again and compared with base + adapter on the run's held-out rows; the numbers are in merge_proof.json.
Beyond the bound nothing is left: `luthier merge runs/first --output models/first --dtype bfloat16`.

With --portable the adapter stays an adapter: rsLoRA is folded into a plain lora_alpha, for servers that ignore
use_rslora.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer


def main(  # noqa: PLR0913 - each is an option
    source: Annotated[Path, typer.Argument(help="A run folder or an adapter folder.", metavar="RUN_OR_ADAPTER")],
    output: Annotated[Path | None, typer.Option(help="The new folder; default: merged/ in the run.")] = None,
    base: Annotated[str | None, typer.Option(help="The base model, where the adapter's own path is wrong.")] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Numbers of the written weights; auto: the base's."),
    ] = "auto",
    texts: Annotated[Path | None, typer.Option(help="Compare on the lines of this file instead.")] = None,
    bound: Annotated[float | None, typer.Option(help="Mean KL in nats at most; default by dtype.")] = None,
    portable: Annotated[bool, typer.Option("--portable", help="Fold rsLoRA into a plain lora_alpha instead.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print folder and proof as JSON on stdout.")] = False,
) -> None:
    """See the module's text."""
    from luthier.core.errors import UserError
    from luthier.export.held_out import read_texts
    from luthier.export.merge import merge_run
    from luthier.export.portable import make_portable

    given = read_texts(texts) if texts else ()

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    if portable:
        if dtype != "auto":
            raise UserError(
                "--dtype", dtype, "nothing else beside --portable, which copies the weights", "leave it out"
            )
        done = make_portable(source, output, base=base, texts=given, bound=bound, overwrite=overwrite, say=say)
    else:
        done = merge_run(source, output, base=base, dtype=dtype, texts=given, bound=bound, overwrite=overwrite, say=say)
    if as_json:
        print(json.dumps(done.to_json(), ensure_ascii=False))
    else:
        print(f"written to {done.folder} ({done.proof.dtype}); {done.proof.told()}")
