# SPDX-License-Identifier: Apache-2.0
"""The client and the queue, against a real endpoint: what is asked again, how long one waits, what stops everything."""

from __future__ import annotations

import asyncio
import email.utils
import time

import pytest
from tests.endpoint import Endpoint, verdict_of

from luthier.core.errors import RunFailed, UserError
from luthier.judge.cache import Replies, Reply, Request
from luthier.judge.client import Client, retry_after
from luthier.judge.queue import Failure, Patience, Queue

KEY = "sk-secret-0123456789abcdef"
HASTE = Patience(parallel=4, attempts=5, first=0.01, longest=0.02)


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def _request(text: str, **parameters) -> Request:
    return Request(model="j", messages=({"role": "user", "content": text},), parameters=parameters)


def _ask(endpoint, requests, patience=HASTE, **how):
    pytest.importorskip("openai")
    kept = []
    queue = Queue(Client("j", base_url=endpoint.url, **how), patience, lambda request, reply: kept.append(request.key))
    return asyncio.run(queue.ask(requests)), kept


def test_replies_come_with_their_parameters():
    requests = [_request(f"t{number}", temperature=0, max_tokens=9) for number in range(20)]
    with Endpoint(slow=0.05) as endpoint:
        found, kept = _ask(endpoint, [*requests, *requests])
    assert {one.key: found[one.key].text for one in requests} == {
        one.key: verdict_of(one.messages[0]["content"]) for one in requests
    }
    assert sorted(kept) == sorted(one.key for one in requests)  # equal requests are sent once
    assert endpoint.answered.total() == 20
    assert 1 < endpoint.most <= 4
    assert endpoint.bodies[0].keys() == {"model", "messages", "temperature", "max_tokens"}
    assert (found[requests[0].key].tokens_in, found[requests[0].key].tokens_out) == (10, 5)


@pytest.mark.parametrize("fault", ["429", "500", "503", "408", "half", "broken", "empty", "drop", "hang"])
def test_what_may_pass_is_asked_again(fault):
    with Endpoint(share=1.0, faults=(fault,), hang=0.6) as endpoint:
        found, kept = _ask(endpoint, [_request("t")], timeout=0.3 if fault == "hang" else 60.0)
    failure = next(iter(found.values()))
    assert isinstance(failure, Failure)
    assert (failure.attempts, kept) == (5, [])
    if fault != "hang":  # a busy machine may look at such a request after the client has left
        assert endpoint.seen[fault] == 5


@pytest.mark.parametrize("fault", ["400", "422", "413"])
def test_what_will_not_pass_is_not(fault):
    with Endpoint(share=1.0, faults=(fault,)) as endpoint:
        found, _ = _ask(endpoint, [_request("t"), _request("u")])
    assert [one.attempts for one in found.values()] == [1, 1]
    assert endpoint.seen[fault] == 2


@pytest.mark.parametrize(
    ("fault", "words"), [("401", "refuses the key"), ("404", "knows no such model"), ("402", "quota")]
)
def test_what_passes_for_nobody_stops_everything(fault, words):
    with Endpoint(share=1.0, faults=(fault,)) as endpoint, pytest.raises(RunFailed, match=words) as told:
        _ask(endpoint, [_request(str(number)) for number in range(50)])
    assert endpoint.seen[fault] <= 8
    assert KEY not in str(told.value)


def test_an_endpoint_that_is_not_there_costs_no_hour():
    with Endpoint() as endpoint:
        url = endpoint.url
    endpoint.server_close()
    pytest.importorskip("openai")
    queue = Queue(Client("j", base_url=url), HASTE, lambda *_: None)
    with pytest.raises(RunFailed, match=r"10 requests in a row failed \(no connection") as told:
        asyncio.run(queue.ask([_request(str(number)) for number in range(500)]))
    assert "check --base-url" in str(told.value)


def test_the_wait_that_is_asked_for_holds_for_all():
    with Endpoint(share=1.0, faults=("429 0.6",)) as endpoint:
        endpoint.draw = lambda: "429 0.6" if len(endpoint.times) == 1 else "fine"
        _ask(endpoint, [_request(str(number)) for number in range(8)], Patience(parallel=1, first=0.01))
    assert endpoint.times[1] - endpoint.times[0] >= 0.6
    assert endpoint.answered.total() == 8


def test_a_wait_of_hours_ends_it():
    words = r"asks to wait 7,200 s; at most 600 s"
    with Endpoint(share=1.0, faults=("429 7200",)) as endpoint, pytest.raises(RunFailed, match=words):
        _ask(endpoint, [_request("t")])


def test_retry_after():
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after-ms": "20", "retry-after": "9"}) == 0.02
    assert retry_after({"retry-after": email.utils.formatdate(time.time() + 30, usegmt=True)}) == pytest.approx(
        30, abs=2
    )
    for word in ("soon", "-1", "nan", "inf", ""):
        assert retry_after({"retry-after": word}) is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8000/v1", "http://HOST/v1"),
        ("ftp://x/v1", "http://HOST/v1"),
        (f"http://user:{KEY}@host/v1", "an address with a key in it"),
        (f"https://host/v1?key={KEY}", "an address with a key in it"),
    ],
)
def test_addresses(url, words):
    with pytest.raises(UserError, match=words) as told:
        Client("j", base_url=url)
    assert KEY not in str(told.value)


def test_no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="judge j: no key in OPENAI_API_KEY"):
        Client("j")
    with Endpoint() as endpoint:
        _ask(endpoint, [_request("t")])
    assert endpoint.keys == {"Bearer none"}  # a server on this machine asks for none


def test_a_reply_that_repeats_the_key_is_kept_without_it(tmp_path):
    pytest.importorskip("openai")
    client = Client("j", base_url="http://127.0.0.1:9/v1")
    assert client.scrub(f"it is {KEY}, or sk-abcd***wxyz") == "it is [key], or [key]"


def test_replies_are_kept_by_all_that_was_asked(tmp_path):
    replies, reply = Replies(tmp_path), Reply(text="它", finish_reason="stop", tokens_in=3, time=5.0)
    request = _request("t", temperature=0)
    assert replies.get(request) is None
    replies.put(request, reply)
    assert replies.get(_request("t", temperature=0)) == reply
    for other in (_request("t", temperature=1), _request("u", temperature=0), _request("t")):
        assert replies.get(other) is None


@pytest.mark.parametrize("damage", [b"", b'{"request"', b"\xff\xfe", b"[]", b'{"request": {}, "reply": {"text": "x"}}'])
def test_a_damaged_reply_is_none(tmp_path, damage):
    replies, request = Replies(tmp_path), _request("t")
    replies.put(request, Reply(text="x"))
    next(tmp_path.rglob("*.json")).write_bytes(damage)
    assert replies.get(request) is None
