# SPDX-License-Identifier: Apache-2.0
"""The engine by itself: what breaks one reply reaches no other, and slots are clean when they are given again."""

from __future__ import annotations

import threading

import pytest
import torch

from luthier.serve.asked import Asked


@pytest.fixture
def shelf(adapters):
    from luthier.serve.shelf import Room, Shelf

    found = Shelf([str(path) for path in adapters.values()], Room(places=2, queue=8), "float32")
    found.start()
    yield found
    found.close()


def write(shelf, *asked):
    """Replies to (name, Asked), all at once: their news."""
    every, left = [[] for _ in asked], threading.Semaphore(0)

    def teller(place):
        def tell(news):
            every[place].append(news)
            if news.reason:
                left.release()

        return tell

    sequences = [shelf.served[name].sequence(one, teller(place)) for place, (name, one) in enumerate(asked)]
    shelf.served[asked[0][0]].engine.submit(sequences)
    for _ in asked:
        assert left.acquire(timeout=60)
    return every


def text_of(news):
    return "".join(one.text for one in news)


def test_a_broken_adapter_ends_alone_and_leaves_a_clean_slot(shelf):
    fine = ("second", Asked(ids=[270, 280, 290], max_tokens=12))
    wanted = text_of(write(shelf, fine)[0])
    member = shelf.served["first"].engine.side.members[0]
    trained = [parameter for parameter in member.parameters() if parameter.requires_grad]
    kept = trained[0].detach().clone()
    with torch.no_grad():
        trained[0].fill_(float("nan"))
    # More than there are slots: the later ones get the slots that held NaN.
    broken = ("first", Asked(ids=[270, 280, 290, 100, 101], max_tokens=12))
    found = write(shelf, broken, fine, broken, fine, fine)
    assert [news[-1].reason for news in found] == ["error", "length", "error", "length", "length"]
    assert "not finite" in found[0][-1].message
    assert {text_of(found[place]) for place in (1, 3, 4)} == {wanted}
    with torch.no_grad():
        trained[0].copy_(kept)
    assert write(shelf, ("first", broken[1]))[0][-1].reason == "length"


def test_a_failing_pass_ends_its_replies_and_nothing_else(shelf, monkeypatch):
    engine = shelf.served["first"].engine
    right, calls = engine._forward, []

    def fail(chosen):
        calls.append(chosen)
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        return right(chosen)

    monkeypatch.setattr(engine, "_forward", fail)
    asked = ("first", Asked(ids=[270, 280], max_tokens=4))
    assert write(shelf, asked)[0][-1].reason == "error"
    assert write(shelf, asked)[0][-1].reason == "length"
    assert engine.load() == (0, 0)


def test_closing_tells_those_who_wait(shelf):
    from luthier.serve.engine import Closed

    news, begun = [], threading.Event()

    def tell(one):
        news.append(one)
        begun.set()

    served = shelf.served["first"]
    served.engine.submit([served.sequence(Asked(ids=[270], max_tokens=400), tell)])
    assert begun.wait(60)
    served.engine.close()
    assert news[-1].reason == "cancelled"
    with pytest.raises(Closed):
        served.engine.submit([])


def test_settings_of_each_adapter_are_its_own(shelf):
    """r 4 with alpha / r and r 8 with alpha / sqrt(r) beside each other."""
    layers = [
        next(one for one in member.modules() if hasattr(one, "lora_A"))
        for member in shelf.engines["base"].side.members[:2]
    ]
    assert [(layer.r, layer.scaling) for layer in layers] == [(4, 2.0), (8, 16 / 8**0.5)]
