# SPDX-License-Identifier: Apache-2.0
"""Who may ask, and how much at once: a bearer token, the size of a body, and names that are this server's own."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse

from luthier.serve.protocol import BadRequest

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = ("/health",)  # asked by those who start and watch servers; it tells nothing


class Guard:
    """Stands before the application.

    Args:
        app: What is guarded.
        key: Bearer token that every request must have; None: none.
        largest: Bytes that a body may have.
        hosts: Names in the Host header that are served; None: all. A page of another site can reach a server on this
            machine by a name of its own that leads here (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, *, key: str | None, largest: int, hosts: Collection[str] | None) -> None:
        self._app, self._key, self._largest, self._hosts = app, key, largest, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is refused; give the rest on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._check(scope, headers)
            receive = await self._whole_body(receive)
        except BadRequest as error:
            asks = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
            await JSONResponse(error.body(), error.status, {**asks, "Connection": "close"})(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        host = _name(headers.get("host", ""))
        if self._hosts is not None and host not in self._hosts:
            raise BadRequest(f"the Host header names {host!r}, which is not this server", status=403, code="host")
        if self._key is not None and scope["path"] not in OPEN:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            same = hmac.compare_digest(given.strip().encode(), self._key.encode())
            if scheme.lower() != "bearer" or not same:
                message = "no valid API key in the header Authorization: Bearer ..."
                raise BadRequest(message, status=401, code="invalid_api_key", kind="authentication_error")
        told = headers.get("content-length", "0")
        if told.isdigit() and int(told) > self._largest:
            raise self._too_large()

    async def _whole_body(self, receive: Receive) -> Receive:
        """Read the body and give it on as one message; what comes behind it (a client that leaves) passes through."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                break
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._largest:
                raise self._too_large()
            if not message.get("more_body", False):
                message = {"type": "http.request", "body": b"".join(parts), "more_body": False}
                break
        first: list[Any] = [message]

        async def given() -> Message:
            return first.pop() if first else await receive()

        return given

    def _too_large(self) -> BadRequest:
        message = f"the body is larger than {self._largest} bytes"
        return BadRequest(message, status=413, code="request_too_large")


def _name(host: str) -> str:
    """A Host header without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
