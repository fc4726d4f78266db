# SPDX-License-Identifier: Apache-2.0
"""What may be served, and under which names."""

from __future__ import annotations

import queue

import pytest
import torch

from luthier.core.errors import ModelError, UserError


def shelf(runs, **room):
    from luthier.serve.shelf import Room, Shelf

    return Shelf([str(run) for run in runs], Room(**room), "float32")


def test_adapters_of_one_base_share_it(adapters):
    found = shelf([*adapters.values(), f"again={adapters['first']}"])
    assert list(found.served) == ["first", "second", "again", "base"]
    (engine,) = found.engines.values()
    first, *others = [
        {id(p) for p in member.parameters() if p.ndim > 1 and not p.requires_grad} for member in engine.side.members
    ]
    assert len(first) > 10
    assert all(frozen == first for frozen in others)


def test_a_whole_model_has_an_engine_of_its_own(tiny_llama, adapters):
    found = shelf([tiny_llama, adapters["first"]])
    assert list(found.served) == [tiny_llama.name, "first", "base"]
    assert found.served[tiny_llama.name].engine is not found.served["first"].engine


def test_names_stand_once(adapters):
    with pytest.raises(UserError, match="two runs are called 'first'"):
        shelf([adapters["first"], f"first={adapters['second']}"])
    with pytest.raises(UserError, match=r"NAME=RUN"):
        shelf([f"={adapters['first']}"])


@pytest.fixture
def prefixed(tiny_llama, tmp_path):
    """A prefix that changes what the model says, saved."""
    from luthier.core import registry
    from luthier.models import load_model, load_tokenizer
    from luthier.recipe import Model

    model = load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32)
    method = registry.get("methods", "prefix")
    method.apply(model, method.Config(num_virtual_tokens=4)).save(tmp_path)
    load_tokenizer(str(tiny_llama), None, False).save_pretrained(tmp_path)
    return tmp_path


def test_virtual_tokens_are_served_beside_others_and_take_their_room(adapters, prefixed):
    from luthier.models.generate import generate
    from luthier.run import load
    from luthier.serve.asked import Asked

    found = shelf([f"prefixed={prefixed}", adapters["first"]], capacity=64, places=2)
    assert [found.served[name].capacity for name in ("prefixed", "first", "base")] == [60, 64, 64]
    assert len(found.engines) == 1
    found.start()
    said, ids = {}, [270, 280, 290]
    try:
        # Each name twice, so that slots are given again to others.
        for name in ("prefixed", "first", "base", "prefixed", "base"):
            news = queue.SimpleQueue()
            one = found.served[name].sequence(Asked(ids=ids, max_tokens=12, strip=False), news.put)
            found.served[name].engine.submit([one])
            told = [news.get(timeout=60)]
            while told[-1].reason is None:
                told.append(news.get(timeout=60))
            text = "".join(one.text for one in told)
            assert said.setdefault(name, text) == text
    finally:
        found.close()
    for name, place in {"prefixed": prefixed, "first": adapters["first"]}.items():
        model, tokenizer = load(place, "float32")
        prompt = tokenizer.decode(ids)
        assert tokenizer(prompt)["input_ids"] == ids
        assert generate(model, tokenizer, [prompt], max_new_tokens=12, raw=True) == [said[name]]
    assert len(set(said.values())) == 3
    with pytest.raises(ModelError, match="3 tokens, 4 of them virtual"):
        shelf([prefixed], capacity=3)


def test_a_method_that_changes_its_base_is_refused(prefixed, monkeypatch):
    from luthier.methods import prefix

    monkeypatch.delattr(prefix, "LEAVES_BASE")
    with pytest.raises(ModelError, match="prefix, which changes its base"):
        shelf([prefixed])


def test_no_more_positions_than_the_model_has(tiny_llama):
    assert shelf([tiny_llama], capacity=64).engines[tiny_llama.name].capacity == 64
    with pytest.raises(UserError, match="at most 512"):
        shelf([tiny_llama], capacity=513)


def test_wrong_words_are_told_before_anything_is_loaded(tmp_path, monkeypatch):
    from luthier.cli.serve import main
    from luthier.core.errors import MissingExtra

    for words, message in (({"dtype": "int4"}, "auto, float32 or bfloat16"), ({"api_key": " "}, "an empty token")):
        with pytest.raises(UserError, match=message):
            main(["nowhere"], **({"dtype": "auto"} | words))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"luthier\[serve\]"):
        main(["nowhere"], dtype="auto", api_key=None)


def test_runs_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        shelf([tmp_path / "nowhere"])
