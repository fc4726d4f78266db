# SPDX-License-Identifier: Apache-2.0
"""A model behind an endpoint answers in the order asked, with the words of the call, past faults, or not at all."""

from __future__ import annotations

import pytest
from tests.endpoint import Endpoint, verdict_of

from luthier.core.errors import RunFailed
from luthier.judge.client import Client
from luthier.judge.queue import Patience
from luthier.judge.students import student

pytest.importorskip("openai")
HOW = {"max_new_tokens": 7, "batch_size": 1, "temperature": 0.1, "seed": 5}
TALKS = [[{"role": "user", "content": text}] for text in ("a", "b", "a", "c")]
QUICK = {"first": 0.01, "longest": 0.05}


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789abcdef")


def test_answers_come_in_order_past_faults():
    with Endpoint(share=0.5, faults=("429", "500", "drop")) as endpoint:
        client = Client("m", base_url=endpoint.url, timeout=5.0, empty=True, role="model")
        ask = student(client, Patience(**QUICK), {"max_completion_tokens": 7, "max_tokens": None})
        assert ask(TALKS, **HOW) == [verdict_of(talk[0]["content"]) for talk in TALKS]
        body = endpoint.bodies[0]
        assert {key: body.get(key) for key in ("max_tokens", "max_completion_tokens", "temperature", "seed")} == {
            "max_tokens": None, "max_completion_tokens": 7, "temperature": 0.1, "seed": 5
        }  # fmt: skip


def test_an_answer_that_does_not_come_is_no_answer():
    with Endpoint(share=1.0, faults=("500",)) as endpoint:
        client = Client("m", base_url=endpoint.url, timeout=5.0, empty=True, role="model")
        with pytest.raises(RunFailed, match=r"^model m: 3 of 3 answers did not come \(500"):
            student(client, Patience(**QUICK, attempts=2))(TALKS[1:], **HOW)
