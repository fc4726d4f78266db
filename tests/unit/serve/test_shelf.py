# SPDX-License-Identifier: Apache-2.0
"""What may be served, and under which names."""

from __future__ import annotations

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


def test_what_stands_before_the_tokens_is_refused(adapters, tiny_llama, tmp_path):
    from luthier.core import registry
    from luthier.models import load_model
    from luthier.recipe import Model

    model = load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32)
    method = registry.get("methods", "prefix")
    method.apply(model, method.Config(num_virtual_tokens=4)).save(tmp_path)
    with pytest.raises(ModelError, match="prefix, which stands before the tokens"):
        shelf([tmp_path])


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
