# SPDX-License-Identifier: Apache-2.0
"""A hub of models on a port of this machine: huggingface_hub's client speaks to it, and it keeps what it is given."""

from __future__ import annotations

import base64
import hashlib
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
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = self._body()
        hub, path = self.server, self.path.split("?")[0]
        hub.asked.append(f"{self.command} {path}")
        for part, (status, text) in hub.refuses.items():
            if part in path:
                return self._send({"error": text}, status)
        if path.startswith("/store/"):
            hub.large[path.removeprefix("/store/")] = body
            return self._send({})
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
            kinds = {True: "lfs", False: "regular"}
            files = [
                {"path": f["path"], "uploadMode": kinds[f["path"].endswith(".safetensors")], "shouldIgnore": False}
                for f in given["files"]
            ]
            return self._send({"files": files})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [o | {"actions": {"upload": {"href": f"{hub.url}/store/{o['oid']}"}}} for o in given["objects"]]
            return self._send({"transfer": "basic", "objects": objects})
        if commit := _COMMIT.fullmatch(path):
            hub.files.setdefault(commit[1], {}).update(self._committed(body))
            return self._send({"commitUrl": f"{hub.url}/{commit[1]}/commit/{'0' * 40}", "commitOid": "0" * 40})
        return self._send({"error": f"{self.command} {path}"}, 404)

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _committed(self, body: bytes) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                found[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                found[value["path"]] = self.server.large[value["oid"]]
                assert hashlib.sha256(found[value["path"]]).hexdigest() == value["oid"]
        return found

    def _send(self, tree: Any, status: int = 200) -> None:
        text = json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = _answer
