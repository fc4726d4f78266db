# SPDX-License-Identifier: Apache-2.0
"""Merges that must not stand: wrong numbers, a full disk, folders of other people, what is no adapter."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tests.tiny import tiny

from luthier.core.errors import ModelError, RunFailed, UserError
from luthier.export import merge as merging
from luthier.export.merge import merge_run


def test_beyond_the_bound_nothing_is_left(bench):
    adapter = bench.adapter(bench.base())
    before = sorted(bench.folder.iterdir())
    with pytest.raises(RunFailed, match=r"is not the trained one.*mean KL.*at most 1e-20 nats for float32.*--bound"):
        merge_run(adapter, bench.folder / "out", bound=1e-20)
    assert sorted(bench.folder.iterdir()) == before


@torch.no_grad()
def _drop_the_update(model, *rest):
    """The best-known bug: the merged model is the base."""
    for parameter, plain in zip(model.parameters(), tiny("llama").parameters(), strict=True):
        parameter.copy_(plain)
    return _write(model, *rest)


@torch.no_grad()
def _forget_the_head(model, *rest):
    model.get_output_embeddings().weight.zero_()
    return _write(model, *rest)


@torch.no_grad()
def _not_a_number(model, *rest):
    model.get_output_embeddings().weight[0, 0] = float("nan")
    return _write(model, *rest)


def _lose_a_tensor(model, written, tokenizer, folder, size):
    _write(model, written, tokenizer, folder, size)
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


_write = merging.write_model


@pytest.mark.parametrize("fault", [_drop_the_update, _forget_the_head, _not_a_number, _lose_a_tensor])
@pytest.mark.parametrize("size", [0.1, 0.02])
def test_a_wrong_merge_is_caught(bench, monkeypatch, fault, size):
    adapter = bench.adapter(bench.base(), size=size)
    before = sorted(bench.folder.iterdir())
    monkeypatch.setattr(merging, "write_model", fault)
    with pytest.raises(RunFailed):
        merge_run(adapter, bench.folder / "out", dtype="bfloat16")
    assert sorted(bench.folder.iterdir()) == before


def test_a_lost_short_training_is_caught(bench, monkeypatch):
    """The base is within the bound of bfloat16 here, and still not what was trained."""
    adapter = bench.adapter(bench.base(), size=0.008)
    assert merge_run(adapter, bench.folder / "good", dtype="bfloat16").proof.adapter_kl < 5e-3
    monkeypatch.setattr(merging, "write_model", _drop_the_update)
    with pytest.raises(RunFailed, match="half of what training changed"):
        merge_run(adapter, bench.folder / "out", dtype="bfloat16")


def test_a_full_disk(bench, monkeypatch):
    adapter = bench.adapter(bench.base())
    before = sorted(bench.folder.iterdir())

    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merging, "write_model", full)
    with pytest.raises(RunFailed, match=r"No space left on device.*free some space"):
        merge_run(adapter, bench.folder / "out")
    assert sorted(bench.folder.iterdir()) == before


def test_earlier_exports_are_replaced_when_asked(bench):
    adapter = bench.adapter(bench.base())
    merge_run(adapter, bench.folder / "out")
    with pytest.raises(UserError, match=r"the folder is not empty.*--overwrite"):
        merge_run(adapter, bench.folder / "out")
    (bench.folder / "out" / "old.txt").write_text("old")
    merge_run(adapter, bench.folder / "out", overwrite=True)
    assert not (bench.folder / "out" / "old.txt").exists()


def test_an_empty_folder_is_a_place(bench):
    (bench.folder / "out").mkdir()
    assert merge_run(bench.adapter(bench.base()), bench.folder / "out").proof.holds


def test_other_peoples_folders_are_never_replaced(bench):
    adapter = bench.adapter(bench.base())
    (bench.folder / "thesis").mkdir()
    (bench.folder / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(UserError, match="no export of Luthier wrote"):
        merge_run(adapter, bench.folder / "thesis", overwrite=True)
    for place in (bench.base(), adapter, bench.folder):
        with pytest.raises(UserError, match="which is being read"):
            merge_run(adapter, place, overwrite=True)
    (bench.folder / "file").write_text("")
    with pytest.raises(UserError, match="a file stands there"):
        merge_run(adapter, bench.folder / "file")


def test_what_is_no_adapter(bench, tiny_llama, tmp_path):
    with pytest.raises(UserError, match=r"no such folder; a run folder or a PEFT adapter folder"):
        merge_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match="a plain model: nothing to merge"):
        merge_run(tiny_llama)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="neither a run nor an adapter"):
        merge_run(tmp_path / "empty")


def test_runs_without_an_adapter(bench, tiny_llama, alpaca_file):
    run = bench.run(tiny_llama, alpaca_file)
    shutil.rmtree(run / "adapter")
    with pytest.raises(UserError, match="a run without a result yet"):
        merge_run(run)
    shutil.copytree(tiny_llama, run / "model")
    with pytest.raises(UserError, match=r"trained the whole model: nothing to merge.*model is a plain model already"):
        merge_run(run)


def test_bases_that_are_not_there(bench):
    adapter = bench.adapter(bench.base())
    file = adapter / "adapter_config.json"
    given = json.loads(file.read_text())
    for base, said in (
        (None, "it names no base model.*--base"),
        ("/gone/model", "/gone/model is not on this machine.*--base"),
    ):
        file.write_text(json.dumps(given | {"base_model_name_or_path": base}))
        with pytest.raises(ModelError, match=said):
            merge_run(adapter)


def test_a_base_of_another_shape(bench):
    adapter = bench.adapter(bench.base("llama"))
    with pytest.raises(ModelError, match="matches no layer"):
        merge_run(adapter, base=str(bench.base("gpt2")))
    assert not (bench.folder / "adapter-merged").exists()
