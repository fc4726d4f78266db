# SPDX-License-Identifier: Apache-2.0
"""Listen until Ctrl-C or SIGTERM; then take no more requests, finish those that are being written, and end."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

import uvicorn

from luthier.core.errors import UserError
from luthier.serve.app import make_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from luthier.serve.app import Limits
    from luthier.serve.shelf import Shelf


def listen(
    shelf: Shelf, limits: Limits, *, host: str, port: int, drain: int, say: Callable[[str], None] = lambda _: None
) -> None:
    """Serve until told to end.

    Args:
        shelf: What is served.
        limits: What is taken on.
        host: Address.
        port: 0 takes a free one.
        drain: Seconds that the end waits for what is being written.
        say: Receives the address, and how to end.

    Raises:
        UserError: The address cannot be listened on.
    """
    with _bound(host, port) as listening:
        shown = f"[{host}]" if ":" in host else host
        names = ", ".join(shelf.served)
        say(f"Serving {names} at http://{shown}:{listening.getsockname()[1]}/v1 (Ctrl-C ends)")
        config = uvicorn.Config(
            make_app(shelf, limits),
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=drain,
            timeout_keep_alive=30,  # seconds that a connection without request is kept
            h11_max_incomplete_event_size=65536,
            server_header=False,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:  # uvicorn raises it again when all has ended as asked
            return
        finally:
            shelf.close()


def _bound(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
    except OSError as error:
        where = f"--host {host} --port {port}"
        raise UserError(where, f"cannot be listened on ({error})", "an address of this machine, a free port") from None
    return found
