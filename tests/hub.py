# SPDX-License-Identifier: Apache-2.0
"""A hub of models on a port of this machine: huggingface_hub's client speaks to it, and it keeps what it is given.

Every file comes with its commit: how large ones go, by a protocol of the hub's own, is not played here.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_aTokenThatNobodyMaySee"
_COMMIT = re.compile(r"/api/models/(\w+/[\w.-]+)/commit/main")
_BEFORE = re.compile(r"/api/models/(\w+/[\w.-]+)/preupload/main")


class Hub(ThreadingHTTPServer):
    """Serves in threads of its own until it is closed.

    Attributes:
        role: What the token may do; None: the hub does not know it.
        refuses: Part of a path -> the status and text that it is answered with.
        repos: Name -> whether it is private.
        files: Of each repository, by path: the bytes.
        asked: Method and path of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.role: str | None = "write"
        self.refuses: dict[str, tuple[int, str]] = {}
        self.repos: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def server_close(self) -> None:
        """Without the first line its thread would go on, asking a closed socket as fast as it can."""
        self.shutdown()
        super().server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def _files_in(body: bytes) -> dict[str, bytes]:
    """The files of a commit: a line of JSON each."""
    values = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
    return {value["path"]: base64.b64decode(value["content"]) for value in values}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        hub, path = self.server, self.path.split("?")[0]
        hub.asked.append(f"{self.command} {path}")
        for part, (status, text) in hub.refuses.items():
            if part in path:
                return self._send({"error": text}, status)
        if hub.role is None or self.headers["authorization"] != f"Bearer {TOKEN}":
            return self._send({"error": "Invalid credentials"}, 401)
        if path == "/api/whoami-v2":
            return self._send({"name": "me", "orgs": [], "auth": {"accessToken": {"role": hub.role}}})
        given = json.loads(body.splitlines()[0]) if body else {}
        if path == "/api/repos/create":
            name = f"{given.get('organization') or 'me'}/{given['name']}"
            hub.repos[name] = given.get("visibility") == "private" or bool(given.get("private"))
            return self._send({"url": f"{hub.url}/{name}"})
        if path == "/api/validate-yaml":
            return self._send({"errors": [], "warnings": []})
        if _BEFORE.fullmatch(path):
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in given["files"]]
            return self._send({"files": files})
        if commit := _COMMIT.fullmatch(path):
            hub.files.setdefault(commit[1], {}).update(_files_in(body))
            return self._send({"commitUrl": f"{hub.url}/{commit[1]}/commit/{'0' * 40}", "commitOid": "0" * 40})
        return self._send({"error": f"{self.command} {path}"}, 404)

    def _send(self, tree: Any, status: int = 200) -> None:
        text = json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = _answer
