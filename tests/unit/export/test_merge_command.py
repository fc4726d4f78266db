# SPDX-License-Identifier: Apache-2.0
"""`luthier merge`: words on stderr, one JSON document on stdout, exit codes 0, 1 and 2."""

from __future__ import annotations

import json

from luthier.cli import main


def _luthier(capsys, *words: object) -> tuple[int, str, str]:
    code = 0
    try:
        main(["merge", *map(str, words)])
    except SystemExit as stop:
        code = stop.code or 0
    said = capsys.readouterr()
    return code, said.out, said.err


def test_it_merges(bench, capsys):
    adapter = bench.adapter(bench.base())
    code, out, err = _luthier(capsys, adapter, "--output", bench.folder / "out", "--dtype", "bfloat16")
    assert code == 0, err
    assert out.startswith(f"written to {bench.folder / 'out'} (bfloat16); ")
    assert "top-1 agreement" in out
    assert (bench.folder / "out" / "merge_proof.json").exists()


def test_json_is_one_document(bench, capsys):
    code, out, _ = _luthier(capsys, bench.adapter(bench.base()), "--json")
    assert code == 0
    tree = json.loads(out)
    assert tree["folder"] == str(bench.folder / "adapter-merged")
    assert tree["proof"]["holds"] is True


def test_portable(bench, capsys):
    adapter = bench.adapter(bench.base(), use_rslora=True)
    code, out, err = _luthier(capsys, adapter, "--portable", "--json")
    assert code == 0
    assert json.loads((bench.folder / "adapter-portable" / "adapter_config.json").read_text())["lora_alpha"] == 16
    assert json.loads(out)["proof"]["mean_kl"] <= 1e-11
    assert "lora_alpha 8 with use_rslora is 16 without" in err
    code, _, err = _luthier(capsys, adapter, "--portable", "--dtype", "bfloat16")
    assert code == 2
    assert "leave it out" in err


def test_faults_have_codes_and_words(bench, capsys, tmp_path):
    adapter = bench.adapter(bench.base())
    code, out, _ = _luthier(capsys, adapter, "--bound", "1e-20", "--json")
    assert code == 1
    assert json.loads(out)["error"]["kind"] == "RunFailed"
    code, _, err = _luthier(capsys, tmp_path / "nowhere")
    assert code == 2
    assert "no such folder" in err
    code, _, err = _luthier(capsys, adapter, "--texts", tmp_path / "none.txt")
    assert code == 2
    assert "a UTF-8 text file" in err


def test_texts_from_a_file(bench, capsys, tiny_llama, alpaca_file, tmp_path):
    (tmp_path / "texts.txt").write_text("One sentence here.\n\nAnd another one there.\n")
    run = bench.run(tiny_llama, alpaca_file)
    code, out, _ = _luthier(capsys, run, "--texts", tmp_path / "texts.txt", "--json")
    assert code == 0
    assert json.loads(out)["proof"]["rows"] == "given texts"
