# SPDX-License-Identifier: Apache-2.0
"""Serve runs and models over HTTP, as OpenAI's API: many adapters on one base, requests batched as they come.

RUN is a run folder, an adapter folder, a model or `embedded`; NAME=RUN gives it another name than its folder's.
Requests choose by `model`; adapters of one base share it, and `base` is that base without one. Only this machine can
ask unless --host says otherwise; LUTHIER_API_KEY holds the bearer token that every request must have.
Ctrl-C finishes what is being written, and ends. `luthier serve runs/first runs/second`
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from luthier.core.errors import MissingExtra, UserError
from luthier.core.start import large_imports

KEY = "LUTHIER_API_KEY"


def main(  # noqa: PLR0913 - each is an option
    runs: Annotated[list[str], typer.Argument(help="What to serve.", metavar="[NAME=]RUN...")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16; auto: what each was trained in.")] = "auto",
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Replies written at once, of each base.")] = 64,
    max_model_len: Annotated[int | None, typer.Option(min=2, help="Tokens of prompt and reply.")] = None,
    max_queue: Annotated[int, typer.Option(min=0, help="Replies that may wait; the next is refused (429).")] = 256,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a request may take.")] = 600.0,
    max_body: Annotated[int, typer.Option(min=1000, help="Bytes of a request.")] = 4_000_000,
    drain: Annotated[int, typer.Option(min=0, help="Seconds that Ctrl-C waits for what is being written.")] = 30,
    api_key: Annotated[str | None, typer.Option(envvar=KEY, help="Bearer token; better as a variable.")] = None,
) -> None:
    """See the module's text."""
    if dtype not in ("auto", "float32", "bfloat16"):
        raise UserError("--dtype", f"received {dtype!r}", "auto, float32 or bfloat16", "choose one of them")
    if api_key is not None and not api_key.strip():
        raise UserError(
            f"--api-key or {KEY}", "an empty token", "a word that only clients know", "unset it, or fill it"
        )
    _need("starlette", "uvicorn")
    with large_imports():
        from luthier.serve.listen import listen
        from luthier.serve.shelf import Room, Shelf
    from luthier.web.live import is_loopback

    room = Room(places=max_num_seqs, capacity=max_model_len, queue=max_queue)
    shelf = Shelf(runs, room, None if dtype == "auto" else dtype, say=lambda line: print(line, file=sys.stderr))
    alone = is_loopback(host)
    if not alone and api_key is None:
        reach = f"warning: {host} can be reached from other machines, and nothing asks who they are"
        print(f"{reach}; set {KEY}", file=sys.stderr)
    from luthier.serve.app import Limits

    hosts = {"localhost", "127.0.0.1", "::1", host} if alone else None
    limits = Limits(seconds=timeout, body=max_body, key=api_key, hosts=hosts)
    listen(shelf, limits, host=host, port=port, drain=drain, say=lambda line: print(line, flush=True))


def _need(*packages: str) -> None:
    from importlib.util import find_spec

    for package in packages:
        if find_spec(package) is None:
            raise MissingExtra("luthier serve", package, "serve")
