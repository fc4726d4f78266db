# SPDX-License-Identifier: Apache-2.0
"""`luthier export`: one command, several forms, each with its keys, a proof and a card."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from luthier.cli import main


def luthier(capsys, *words: object) -> tuple[int, str, str]:
    code = 0
    try:
        main(["export", *map(str, words)])
    except SystemExit as stop:
        code = stop.code or 0
    said = capsys.readouterr()
    return code, said.out, said.err


def test_merged_in_small_files(bench, capsys):
    adapter, out = bench.adapter(bench.base()), bench.folder / "out"
    code, said, err = luthier(capsys, adapter, "max_shard_size=30KB", "dtype=bfloat16", "--output", out)
    assert code == 0, err
    assert said.startswith(f"written to {out} (bfloat16); ")
    assert len(list(out.glob("model-*.safetensors"))) > 1
    assert AutoModelForCausalLM.from_pretrained(out, dtype="auto").dtype == torch.bfloat16


def test_peft_as_it_is(bench, capsys):
    adapter = bench.adapter(bench.base(), use_rslora=True)
    code, out, err = luthier(capsys, adapter, "--to", "peft", "--json")
    assert code == 0, err
    folder = bench.folder / "adapter-peft"
    assert json.loads(out)["proof"]["max_logit_difference"] == 0.0
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (folder / name).read_bytes() == (adapter / name).read_bytes()
    assert json.loads((folder / "export_proof.json").read_text())["holds"] is True
    code, out, err = luthier(capsys, adapter, "portable=true", "--to", "peft", "--output", bench.folder / "plain")
    assert code == 0, err
    assert json.loads((bench.folder / "plain" / "adapter_config.json").read_text())["use_rslora"] is False
    code, _, err = luthier(capsys, adapter, "--to", "peft")
    assert code == 2
    assert "--overwrite" in err
    assert luthier(capsys, adapter, "--to", "peft", "--overwrite")[0] == 0


def test_keys_are_shown(capsys):
    code, out, _ = luthier(capsys, "--to", "gguf", "--keys", "--json")
    assert code == 0
    assert [key["key"] for key in json.loads(out)["keys"]] == ["dtype", "pre"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--to", "ggup"], "did you mean 'gguf'"),
        (["--to", "gguf", "dtyp=q8_0"], "dtyp"),
        (["--to", "gguf", "dtype=q3_k"], "q8_0"),
        (["--to", "merged", "max_shard_size=much"], "max_shard_size"),
        (["--to", "merged", "dtype=float32", "dtype=float16"], "given twice"),
        (["--to", "merged", "float32"], "no key=value"),
    ],
)
def test_wrong_words(bench, capsys, words, told):
    code, _, err = luthier(capsys, bench.folder, *words)
    assert code == 2
    assert told in err


def test_nothing_to_export(capsys, tmp_path):
    code, _, err = luthier(capsys, "--to", "merged")
    assert (code, "no SOURCE" in err) == (2, True)
    code, _, err = luthier(capsys, tmp_path / "nowhere", "--to", "peft")
    assert (code, "no such folder" in err) == (2, True)
