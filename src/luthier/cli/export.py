# SPDX-License-Identifier: Apache-2.0
"""Write what was trained in a form that others read: merged, peft, gguf or gptq, each with a proof and a model card.

SOURCE is a run folder, an adapter folder of any origin, or a model's folder. What was written is read again and held
against the trained model on held-out rows; beyond the bound nothing is left. A form's own keys are `key=value` words:
`luthier export runs/first --to gguf dtype=q8_0`; `luthier export --to gguf --keys` lists them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def main(  # noqa: PLR0913 - each is an option
    source: Annotated[str | None, typer.Argument(help="A run, an adapter or a model.", metavar="SOURCE")] = None,
    words: Annotated[list[str] | None, typer.Argument(help="The form's keys.", metavar="[KEY=VALUE ...]")] = None,
    to: Annotated[str, typer.Option(help="The form; `merged` is what `luthier merge` writes.")] = "merged",
    output: Annotated[Path | None, typer.Option(help="The new folder; default: named after the form.")] = None,
    base: Annotated[str | None, typer.Option(help="The base model, where the adapter's own path is wrong.")] = None,
    texts: Annotated[Path | None, typer.Option(help="Compare on the lines of this file instead.")] = None,
    bound: Annotated[float | None, typer.Option(help="Mean KL in nats at most; default by what is written.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    push_to: Annotated[str | None, typer.Option(help="Upload it to this repository once it is proved.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="Show the keys of the form, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print folder and proof as JSON on stdout.")] = False,
) -> None:
    """See the module's text."""
    from luthier.cli._entries import show_one
    from luthier.core import registry
    from luthier.core.errors import UserError
    from luthier.recipe.load import form_config

    if keys:
        show_one("export.forms", to, as_json=as_json)
        return
    if source is None:
        raise UserError("luthier export", "no SOURCE", "a run, an adapter or a model", "name one")
    form = registry.get("export.forms", to, "--to")
    config = form_config(form.Config, words or ())

    from luthier.export.held_out import read_texts
    from luthier.export.hub import check_push, push
    from luthier.export.trained import Request

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    if push_to is not None:
        check_push(push_to, "--push-to")
    given = read_texts(texts) if texts else ()
    request = Request(source=source, output=output, base=base, texts=given, bound=bound, overwrite=overwrite, say=say)
    done = form.write(request, config)
    if push_to is not None:
        push(done.folder, push_to, "--push-to", private=private, say=say)
    if as_json:
        print(json.dumps(done.to_json(), ensure_ascii=False))
    else:
        print(f"written to {done.folder} ({done.proof.dtype}); {done.proof.told()}")
