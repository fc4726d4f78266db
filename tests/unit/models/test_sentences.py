# SPDX-License-Identifier: Apache-2.0
"""Folders of models of vectors: written as sentence-transformers reads them, read as any of its versions wrote them."""

from __future__ import annotations

import json

import pytest

from luthier.core.errors import ModelError
from luthier.kernels.pooling import POOLINGS
from luthier.models.sentences import POOLING, read_pooling, write_modules


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("normalize", [True, False])
def test_what_is_written(tmp_path, pooling, normalize):
    write_modules(tmp_path, {"pooling": pooling, "normalize": normalize}, width=32, most=64)
    assert read_pooling(tmp_path) == pooling
    modules = json.loads((tmp_path / "modules.json").read_text(encoding="utf-8"))
    kinds = ["Transformer", "Pooling", "Normalize"][: 2 + normalize]
    assert [one["type"] for one in modules] == [f"sentence_transformers.models.{kind}" for kind in kinds]
    assert [one["idx"] for one in modules] == list(range(len(kinds)))
    assert all((tmp_path / one["path"]).is_dir() for one in modules)
    told = json.loads((tmp_path / POOLING).read_text(encoding="utf-8"))
    assert told["word_embedding_dimension"] == 32
    assert sum(value is True for key, value in told.items() if key.startswith("pooling_mode_")) == 1
    assert json.loads((tmp_path / "sentence_bert_config.json").read_text(encoding="utf-8"))["max_seq_length"] == 64
    about = json.loads((tmp_path / "config_sentence_transformers.json").read_text(encoding="utf-8"))
    assert about["similarity_fn_name"] == ("cosine" if normalize else "dot")


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({"word_embedding_dimension": 8, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"embedding_dimension": 8, "pooling_mode": "lasttoken", "include_prompt": True}, "last"),
        ({"embedding_dimension": 8, "pooling_mode": ["cls"]}, "cls"),
        ({"word_embedding_dimension": 8}, "mean"),
        ({"pooling_mode": "max"}, "max.*mean, cls, lasttoken"),
        ({"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "mean_tokens and pooling_mode_cls_token"),
        ([], "holds list"),
    ],
)
def test_what_is_read(tmp_path, told, found):
    (tmp_path / POOLING).parent.mkdir()
    (tmp_path / POOLING).write_text(json.dumps(told), encoding="utf-8")
    if found in POOLINGS:
        assert read_pooling(tmp_path) == found
        return
    with pytest.raises(ModelError, match=found):
        read_pooling(tmp_path)


def test_modules_that_are_unknown_here(tmp_path):
    assert read_pooling(tmp_path) == "mean"
    kinds = ["base.modules.transformer.Transformer", "models.Pooling", "models.Dense"]
    modules = [{"idx": n, "path": "", "type": f"sentence_transformers.{kind}"} for n, kind in enumerate(kinds)]
    (tmp_path / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(ModelError, match=r"modules\.json names the module Dense"):
        read_pooling(tmp_path)
