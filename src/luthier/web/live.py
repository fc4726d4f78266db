# SPDX-License-Identifier: Apache-2.0
"""The live page: the report over HTTP, with its sections exchanged as runs go on, and a way to stop one.

    GET  /              the page, with a token in it
    GET  /state.json    {"sections": {name: {"mark", "html"}}}, or 304 where nothing has changed
    POST /stop          {"run": "lora-r16/seed-0"} asks a run to save and stop

Only this machine is served by default. A page of another site cannot stop a run: it neither knows the token nor may
read the page that holds it, and a name that is not ours (DNS rebinding) is refused by the Host header.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import secrets
import socket
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from luthier.core.errors import LuthierError, UserError
from luthier.engine.presence import ask_to_stop
from luthier.web.gather import gather
from luthier.web.page import page_of, parts_of

if TYPE_CHECKING:
    from pathlib import Path

    from luthier.web.markup import Markup

MOST_BYTES = 10_000  # of a request's body
_FRESH = 1.0  # seconds that a reading of the folder is good for at least, however many pages ask
_SHARE = 0.1  # of one core's time that reading may take: the runs need the rest
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class LiveServer(ThreadingHTTPServer):
    """Serves one folder.

    Args:
        folder: Of a study or a run.
        host: Where to listen.
        port: Likewise; 0 takes a free one.
        language: The page opens in; None follows the browser.

    Raises:
        UserError: The folder holds neither a study nor a run, or the address cannot be listened on.
    """

    daemon_threads = True

    def __init__(self, folder: Path, *, host: str = "127.0.0.1", port: int = 0, language: str | None = None) -> None:
        gather(folder)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.folder, self.language, self.token = folder, language, secrets.token_urlsafe(24)
        self._reading, self._good_until, self._read = threading.Lock(), 0.0, (b"", "")
        self.asked_host = host
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            what = f"{host}:{port} cannot be listened on ({error.strerror or error})"
            raise UserError("--port", what, "a free port of this machine", "choose another, or 0 for any") from None

    @property
    def address(self) -> str:
        """What to open in a browser."""
        name = "127.0.0.1" if self.asked_host in ("0.0.0.0", "::") else self.asked_host  # noqa: S104 - compared only
        return f"http://{f'[{name}]' if ':' in name else name}:{self.server_port}/"

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server: a loopback name, the host asked for, or a number where all are."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.strip("[]").lower()
        if name in ("localhost", "127.0.0.1", "::1", self.asked_host.lower()):
            return True
        if self.asked_host not in ("0.0.0.0", "::"):  # noqa: S104 - compared only
            return False
        try:  # rebinding needs a name; an address in numbers is the one that was connected to
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def state(self) -> tuple[bytes, str]:
        """The sections as JSON and what they are known by; read once a second, less often where that is slow."""
        with self._reading:
            begun = time.monotonic()
            if begun >= self._good_until:
                parts = parts_of(gather(self.folder), live=True)
                body = json.dumps({"sections": {name: _marked(part) for name, part in parts.items()}}).encode()
                self._read = body, f'"{hashlib.sha256(body).hexdigest()[:20]}"'
                took = time.monotonic() - begun
                self._good_until = begun + max(_FRESH, took / _SHARE)
            return self._read

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader who went away in the middle of an answer is none; anything else is shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def page(self) -> bytes:
        """The whole page."""
        return page_of(gather(self.folder), self.language, token=self.token).encode()

    def stop(self, key: Any) -> bool:
        """Ask the run of that name to stop; False where no such run is going on."""
        found = gather(self.folder)
        for run in (*found.early, *found.runs):
            if run.key == key and run.state == "running":
                ask_to_stop(run.folder)
                self._good_until = 0.0
                return True
        return False


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _marked(part: Markup) -> dict[str, str]:
    return {"mark": hashlib.sha256(part.encode()).hexdigest()[:12], "html": str(part)}


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: LiveServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "luthier", ""
    timeout = 30

    def do_GET(self) -> None:
        if not self._ours():
            return
        path = self.path.partition("?")[0]
        try:
            if path == "/":
                self._answer(HTTPStatus.OK, self.server.page(), "text/html; charset=utf-8")
            elif path == "/state.json":
                body, mark = self.server.state()
                if self.headers.get("If-None-Match") == mark:
                    self._answer(HTTPStatus.NOT_MODIFIED, b"", "application/json", mark)
                else:
                    self._answer(HTTPStatus.OK, body, "application/json", mark)
            else:
                self._refuse(HTTPStatus.NOT_FOUND)
        except (LuthierError, OSError) as error:  # the folder was moved away while it is watched
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, str(error).encode(), "text/plain; charset=utf-8")

    def do_POST(self) -> None:
        if not self._ours():
            return
        if self.path != "/stop":
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MOST_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        body = self.rfile.read(int(length))
        token = self.headers.get("X-Luthier-Token", "")
        origin = self.headers.get("Origin")
        same = origin is None or origin == f"http://{self.headers['Host']}"
        if not same or not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._refuse(HTTPStatus.FORBIDDEN)
            return
        try:
            told = json.loads(body)
            done = self.server.stop(told.get("run") if isinstance(told, dict) else None)
        except ValueError:
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        except OSError:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        self._answer(
            HTTPStatus.OK if done else HTTPStatus.CONFLICT, json.dumps({"asked": done}).encode(), "application/json"
        )

    def _ours(self) -> bool:
        """Refuse a request that was meant for another name."""
        if self.server.knows(self.headers.get("Host", "")):
            return True
        self._refuse(HTTPStatus.MISDIRECTED_REQUEST)
        return False

    def _refuse(self, status: HTTPStatus) -> None:
        self.close_connection = True  # a body that was not read would be taken for the next request
        self._answer(status, f"{status.phrase}\n".encode(), "text/plain; charset=utf-8")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str, mark: str = "") -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if mark:
            self.send_header("ETag", mark)
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if body and status != HTTPStatus.NOT_MODIFIED:
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing: a page asks every two seconds."""
