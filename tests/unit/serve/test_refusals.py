# SPDX-License-Identifier: Apache-2.0
"""What the server refuses, in OpenAI's form; clients that leave are freed; full queues, limits and tokens."""

from __future__ import annotations

import json
import socket
import time

import pytest

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx2")

MESSAGES = [{"role": "user", "content": "What is the capital of Peru?"}]


def ask(client, **words):
    settings = {"model": "first", "messages": MESSAGES, "temperature": 0, "max_tokens": 8} | words
    return client.chat.completions.create(**settings)


def test_unknown_names(server):
    for call in (lambda: ask(server.client(), model="frist"), lambda: server.client().models.retrieve("frist")):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert caught.value.code == "model_not_found"
        assert "did you mean 'first'" in str(caught.value)


@pytest.mark.parametrize(
    ("words", "param"),
    [
        ({"temperature": 3.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10_000}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"extra_body": {"top_k": 5}}, "top_k"),
    ],
)
def test_bad_requests_name_the_key(server, words, param):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(server.client(), **words)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert server.idle()


def test_neutral_keys_are_taken(server):
    words = {"frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {}, "user": "me", "seed": 1}
    assert ask(server.client(), **words, response_format={"type": "text"}).choices


def test_more_replies_than_can_ever_wait(server):
    with pytest.raises(openai.BadRequestError, match="at most 24 replies a request"):
        server.client().completions.create(model="base", prompt=["a"] * 13, n=2)
    with pytest.raises(openai.BadRequestError, match="at most 24 replies a request"):
        ask(server.client(), n=25)


def test_prompts_that_cannot_be_read(server):
    for prompt in ("", [], [[5000]], [[-1]]):
        with pytest.raises(openai.BadRequestError) as caught:
            server.client().completions.create(model="base", prompt=prompt)
        assert caught.value.param in ("prompt", "prompt.list[int]")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"model": "first"}', b'{"model": 5, "messages": 1}'])
def test_bodies_that_are_no_requests(server, body):
    found = httpx.post(f"{server.url}/v1/chat/completions", content=body)
    assert found.status_code == 400
    assert set(found.json()["error"]) == {"message", "type", "param", "code"}


def test_paths_and_methods(server):
    assert httpx.get(f"{server.url}/v1/nothing").json()["error"]["code"] == "not_found"
    assert httpx.get(f"{server.url}/v1/chat/completions").status_code == 405


def long_reply(server, **words):
    """A stream that would go on for hundreds of tokens."""
    return ask(server.client(), model="base", max_tokens=400, stream=True, **words)


def test_a_client_that_leaves_a_stream_is_freed(server):
    ended = server.shelf.served["base"].engine.counts.ended
    before = ended["cancelled"]
    stream = long_reply(server, n=2)
    for _ in range(4):
        next(iter(stream))
    assert server.shelf.served["base"].engine.load()[0] == 2
    stream.close()
    assert server.idle()
    assert ended["cancelled"] == before + 2


def test_a_client_that_does_not_wait_is_freed(server):
    body = json.dumps({"model": "base", "messages": MESSAGES, "temperature": 0, "max_tokens": 400}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    ended = server.shelf.served["base"].engine.counts.ended
    before = ended["cancelled"]
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head + body)
        until = time.monotonic() + 20
        while server.shelf.served["base"].engine.load() == (0, 0) and time.monotonic() < until:
            time.sleep(0.005)
    assert server.idle()
    assert ended["cancelled"] == before + 1


def test_the_queue_is_bounded(server):
    """8 slots and a queue of 16: with 24 on their way the next one is refused, and served when they are gone."""
    streams = [long_reply(server, n=8) for _ in range(3)]
    with pytest.raises(openai.RateLimitError) as caught:
        ask(server.client())
    assert caught.value.code == "queue_full"
    assert caught.value.response.headers["retry-after"] == "1"
    for stream in streams:
        stream.close()
    assert server.idle()
    assert ask(server.client()).choices


def test_health_and_metrics(server):
    ask(server.client())
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    text = httpx.get(f"{server.url}/metrics").text
    rows = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    counts = server.shelf.served["base"].engine.counts
    assert float(rows['luthier_reply_tokens_total{base="base"}']) == counts.reply_tokens > 0
    assert rows['luthier_running{base="base"}'] == "0"
    assert int(rows['luthier_first_token_seconds_bucket{base="base",le="+Inf"}']) == int(
        rows['luthier_first_token_seconds_count{base="base"}']
    )


@pytest.fixture(scope="module")
def strict(adapters):
    """Another server: a key, small bodies, little time, names of its own."""
    from tests.serving import running

    from luthier.serve.shelf import Room, Shelf

    shelf = Shelf([f"only={adapters['first']}"], Room(places=1, queue=1), "float32")
    hosts = {"127.0.0.1"}
    with running(shelf, key="secret", body=2000, seconds=0.3, hosts=hosts) as found:
        yield found


def test_keys(strict):
    assert ask(strict.client(), model="only", max_tokens=1).choices
    with pytest.raises(openai.AuthenticationError) as caught:
        ask(strict.client(api_key="guess"), model="only")
    assert caught.value.code == "invalid_api_key"
    assert httpx.get(f"{strict.url}/v1/models").status_code == 401
    assert httpx.get(f"{strict.url}/metrics").status_code == 401
    assert httpx.get(f"{strict.url}/health").status_code == 200


def test_bodies_are_bounded(strict):
    headers = {"Authorization": "Bearer secret"}
    url = f"{strict.url}/v1/chat/completions"
    assert httpx.post(url, content=b"x" * 3000, headers=headers).status_code == 413
    told = httpx.post(url, content=(b"x" * 100 for _ in range(50)), headers=headers)  # in chunks, without a length
    assert told.json()["error"]["code"] == "request_too_large"


def test_other_names_are_refused(strict):
    for host, status in (("evil.example", 403), ("127.0.0.1", 200), ("127.0.0.1:99", 200), ("[::1]", 403), ("[", 403)):
        headers = {"Authorization": "Bearer secret", "Host": host}
        assert httpx.get(f"{strict.url}/v1/models", headers=headers).status_code == status, host


def test_time_outs(adapters):
    from tests.serving import running

    from luthier.serve.shelf import Room, Shelf

    shelf = Shelf([f"only={adapters['first']}"], Room(places=1, queue=1), "float32")
    with running(shelf, seconds=0.002) as hurried:
        with pytest.raises(openai.APIStatusError) as caught:
            ask(hurried.client(), model="only", max_tokens=400)
        assert caught.value.status_code == 504
        with pytest.raises(openai.APIError, match="took too long"):
            list(ask(hurried.client(), model="only", max_tokens=400, stream=True))
        assert hurried.idle()
