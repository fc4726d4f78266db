# SPDX-License-Identifier: Apache-2.0
"""A GPTQ folder: its words hold the codes as published, readers get the same numbers, and faults leave no folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.unit.export.test_gguf import make
from transformers import AutoModelForCausalLM, AutoTokenizer

from luthier.core.errors import ModelError, RunFailed, UserError
from luthier.export.forms import gptq as form
from luthier.export.forms._gptq_files import pack
from luthier.export.trained import Request
from luthier.models.load import load_model
from luthier.recipe import Model

IDS = torch.arange(2, 40)[None]


def export(source: Path, output: Path, **keys):
    said: list[str] = []
    given = {name: keys.pop(name) for name in ("bound", "overwrite", "base") if name in keys}
    request = Request(source=source, output=output, say=said.append, **({"bound": 5.0} | given))
    return form.write(request, form.Config(**({"group_size": 32} | keys))), "\n".join(said)


def dequantised(tensors: dict[str, torch.Tensor], name: str, bits: int) -> torch.Tensor:
    """AutoGPTQ's layout by its description, number by number."""
    words, zeros, scales, groups = (tensors[f"{name}.{leaf}"] for leaf in ("qweight", "qzeros", "scales", "g_idx"))
    each, mask = 32 // bits, 2**bits - 1
    out = torch.empty(words.shape[1], words.shape[0] * each, dtype=torch.float64)
    for n in range(out.shape[0]):
        for k in range(out.shape[1]):
            code = (int(words[k // each, n]) & 0xFFFFFFFF) >> bits * (k % each) & mask
            group = int(groups[k])
            zero = ((int(zeros[group, n // each]) & 0xFFFFFFFF) >> bits * (n % each) & mask) + 1
            out[n, k] = (code - zero) * float(scales[group, n])
    return out


@pytest.mark.parametrize("keys", [{}, {"desc_act": True, "sym": False}, {"bits": 8, "group_size": 16}], ids=str)
def test_the_words_are_the_published_ones(tmp_path, tiny_llama, keys):
    done, said = export(make(tmp_path, tiny_llama), tmp_path / "out", **keys)
    tensors = load_file(done.folder / "model.safetensors")
    config = json.loads((done.folder / "config.json").read_text())
    told, bits = config["quantization_config"], keys.get("bits", 4)
    assert told["quant_method"] == told["checkpoint_format"] == "gptq"
    assert (told["bits"], told["group_size"]) == (bits, keys.get("group_size", 32))
    assert (told["desc_act"], told["sym"]) == (keys.get("desc_act", False), keys.get("sym", True))
    assert config["dtype"] == "float16"
    model = load_model(Model(model_name_or_path=str(done.folder)), torch.float32, attention="eager")
    for name in ("model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj"):
        weight = model.get_submodule(name).weight
        assert torch.allclose(weight.dense().double(), dequantised(tensors, name, bits), atol=1e-6)
        assert f"{name}.weight" not in tensors
    assert tensors["lm_head.weight"].dtype == torch.float16
    assert "layer 2 of 2: error" in said
    assert done.proof.bits == bits


def test_it_is_nearer_than_rounding_to_the_nearest(tmp_path, tiny_llama, monkeypatch):
    base = make(tmp_path, tiny_llama)
    done, _ = export(base, tmp_path / "out")
    monkeypatch.setattr("luthier.export.forms._gptq_layers.gptq", lambda w, h, how: _nearest(w.double(), how))
    plain, _ = export(base, tmp_path / "plain")
    assert done.proof.mean_kl < 0.8 * plain.proof.mean_kl


def _nearest(weight, how):
    from luthier.export.gptq import nearest

    return nearest(weight, how)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("keys", [{"bits": 8}, {"desc_act": True, "static_groups": True}], ids=str)
def test_transformers_reads_compressed_tensors(tmp_path, tiny_llama, keys):
    pytest.importorskip("compressed_tensors")
    base = make(tmp_path, tiny_llama, "qwen2")
    packed, _ = export(base, tmp_path / "packed", format="compressed-tensors", **keys)
    same, _ = export(base, tmp_path / "same", **keys)
    theirs = AutoModelForCausalLM.from_pretrained(packed.folder, dtype=torch.float32)
    ours = load_model(Model(model_name_or_path=str(same.folder)), torch.float32, attention="eager")
    with torch.no_grad():
        a, b = (model.eval()(input_ids=IDS, use_cache=False).logits for model in (theirs, ours))
    assert (a - b).abs().max() <= 0.02 * b.abs().max()  # its scales are rounded to the model's type, as its readers do
    assert AutoTokenizer.from_pretrained(packed.folder).chat_template


def test_a_run_is_calibrated_on_its_training_rows(bench, tiny_llama, alpaca_file):
    run = bench.run(tiny_llama, alpaca_file)
    done, said = export(run, bench.folder / "out", rows=8)
    about = json.loads((done.folder / "export_proof.json").read_text())
    assert "calibrating on 8 rows" in said
    assert about["calibration"]["from"] == "data.train of the run"
    assert about["calibration"]["rows"] == 8
    assert about["weight_bytes"] == sum(t.nbytes for t in load_file(done.folder / "model.safetensors").values())
    assert about["adapter_kl"] > 1e-3
    assert "gptq 4 bits, group 32" in (done.folder / "README.md").read_text()


def test_texts_can_be_given(tmp_path, tiny_llama):
    (tmp_path / "texts.txt").write_text("One text to calibrate on.\nAnother one.\n")
    base = make(tmp_path, tiny_llama)
    done, said = export(base, tmp_path / "out", texts=str(tmp_path / "texts.txt"))
    assert "calibrating on 2 rows" in said
    assert done.folder.exists()
    assert "eight built-in texts" in export(base, tmp_path / "other")[1]


def test_words():
    codes = torch.arange(64).reshape(4, 16) % 16
    words = pack(codes, 4, 1)
    assert words.shape == (4, 2)
    assert words[0, 0].item() & 0xFFFFFFFF == 0x76543210
    assert torch.equal(pack(codes.T, 4, 0), words.T)


def test_faults_come_with_words(tmp_path, bench, tiny_llama):
    base = make(tmp_path, tiny_llama)
    with pytest.raises(ModelError, match="group_size=32"):
        export(base, tmp_path / "out", group_size=128)
    with pytest.raises(ModelError, match="Conv1D"):
        export(_named(bench.base("gpt2"), tiny_llama), tmp_path / "out")
    with pytest.raises(UserError, match="static_groups=true"):
        export(base, tmp_path / "out", format="compressed-tensors", desc_act=True)
    with pytest.raises(UserError, match="sym=false"):
        export(base, tmp_path / "out", format="compressed-tensors", sym=False)
    with pytest.raises(UserError, match="a UTF-8 text file"):
        export(base, tmp_path / "out", texts=str(tmp_path / "none.txt"))
    with pytest.raises(RunFailed, match="take more bits or smaller groups"):
        export(base, tmp_path / "out", bound=1e-9)
    assert not (tmp_path / "out").exists()


def _named(base: Path, words: Path) -> Path:
    """A model with a tokenizer that it has words enough for."""
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(300, mean_resizing=False)
    model.save_pretrained(base)
    AutoTokenizer.from_pretrained(words).save_pretrained(base)
    return base
