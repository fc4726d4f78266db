# SPDX-License-Identifier: Apache-2.0
"""Show a study or a run in the browser while it goes on: progress, curves, time left, and a way to stop a run.

DIR is its output_dir. Only this machine can open the page unless --host names another address; whoever can open it can
read the results and stop runs. Ctrl-C ends the watching and nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def main(
    folder: Annotated[Path, typer.Argument(help="A study's folder or a run's.", metavar="DIR")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8765,
    lang: Annotated[str | None, typer.Option(help="en or zh; default: what the reader's browser asks for.")] = None,
) -> None:
    """See the module's text."""
    from luthier.core.errors import UserError, did_you_mean
    from luthier.web.live import LiveServer, is_loopback
    from luthier.web.markup import LANGUAGES

    if lang is not None and lang not in LANGUAGES:
        raise UserError("--lang", f"received {lang!r}", did_you_mean(lang, LANGUAGES))
    with LiveServer(folder, host=host, port=port, language=lang) as server:
        if not is_loopback(host):
            reach = f"warning: {host} can be reached from other machines, without encryption or a password"
            print(f"{reach}; whoever opens the page can read the results and stop runs", file=sys.stderr)
        print(f"Watching {folder} at {server.address} (Ctrl-C ends the watching; runs go on)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
