# SPDX-License-Identifier: Apache-2.0
"""An endpoint of OpenAI's protocol on a port of this machine: it rates by content, counts, and can misbehave."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULTS = (*("429", "500", "broken", "half", "empty", "drop") * 4, "hang")  # a hang costs the client's time-out


def verdict_of(content: str) -> str:
    """What the endpoint says of a text: always the same, with a rating, a share and a verdict in it."""
    number = int.from_bytes(hashlib.sha256(content.encode()).digest()[:4], "little")
    return f"It does. [[{1 + number % 10}]] 得分: {number % 11 / 10} [[{'ABC'[number % 3]}]]"


class Endpoint(ThreadingHTTPServer):
    """Serves in threads of its own until it is closed.

    Args:
        share: Of the requests that go wrong.
        faults: How they do, one after another.
        hang: Seconds that a hanging request takes; the client's time-out must be shorter.
        slow: Seconds that every reply takes.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, share: float = 0.0, faults: tuple[str, ...] = FAULTS, hang: float = 1.5, slow: float = 0.0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.share, self.faults, self.hang, self.slow = share, faults, hang, slow
        self.random, self.lock = random.Random(7), threading.Lock()
        self.answered: Counter[str] = Counter()  # whole replies by what was asked: what one would pay for
        self.seen: Counter[str] = Counter()  # what happened to requests
        self.times: list[float] = []
        self.keys: set[str] = set()
        self.in_flight = self.most = self.failed = 0
        self.bodies: list[dict] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def server_close(self) -> None:
        """Without the first line its thread would go on, asking a closed socket as fast as it can."""
        self.shutdown()
        super().server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address) -> None:
        """A client that went away is what these tests are about."""

    def draw(self) -> str:
        with self.lock:
            if self.random.random() >= self.share:
                return "fine"
            self.failed += 1
            return self.faults[(self.failed - 1) % len(self.faults)]

    def settled(self) -> None:
        """Wait until nothing is in flight and nothing arrives: a killed client's last requests may still lie queued."""
        before = -1
        while self.in_flight or before != len(self.times):
            before = len(self.times)
            time.sleep(0.5)


def answers(bench: Path, *models: str) -> None:
    """Write answer files: other answers for each model and question."""
    questions = [json.loads(line) for line in (bench / "question.jsonl").read_text("utf-8").splitlines()]
    (bench / "model_answer").mkdir(exist_ok=True)
    for model in models:
        text = ""
        for one in questions:
            turns = [f"{model} says of: {turn}" for turn in one["turns"]]
            row = {"question_id": one["question_id"], "choices": [{"index": 0, "turns": turns}]}
            text += json.dumps(row) + "\n"
        (bench / "model_answer" / f"{model}.jsonl").write_text(text, encoding="utf-8")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.times.append(time.monotonic())
            self.server.keys.add(self.headers["authorization"])
            self.server.bodies.append(body)
            self.server.in_flight += 1
            self.server.most = max(self.server.most, self.server.in_flight)
        try:
            self._answer(body)
        finally:
            with self.server.lock:
                self.server.in_flight -= 1

    def _answer(self, body: dict) -> None:
        how = self.server.draw()
        time.sleep(self.server.slow)
        with self.server.lock:
            self.server.seen[how] += 1
        content = verdict_of(body["messages"][-1]["content"])
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        reply = {"id": "x", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
        text = json.dumps(reply | {"usage": usage}).encode()
        if how == "hang":
            time.sleep(self.server.hang)
            self.close_connection = True
        elif how == "drop":
            self.close_connection = True
        elif how == "half":
            self._send(200, text[: len(text) // 2], length=len(text))
            self.close_connection = True
        elif how == "broken":
            self._send(200, text[: len(text) // 2])
        elif how == "empty":
            self._send(200, json.dumps(reply | {"choices": []}).encode())
        elif how == "fine":
            with self.server.lock:
                self.server.answered[json.dumps(body, sort_keys=True)] += 1
            self._send(200, text)
        else:
            self._refuse(int(how.split()[0]), how)

    def _refuse(self, status: int, how: str) -> None:
        wait = {"retry-after": how.split()[1]} if " " in how else {"retry-after": "0.05"} if status == 429 else {}
        key = self.headers["authorization"].removeprefix("Bearer ")  # some repeat it in errors
        code = "insufficient_quota" if status == 402 else None
        error = {"message": f"Bad key {key} or whatever", "type": "x", "code": code}
        self._send(429 if status == 402 else status, json.dumps({"error": error}).encode(), headers=wait)

    def _send(self, status: int, body: bytes, length: int | None = None, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
