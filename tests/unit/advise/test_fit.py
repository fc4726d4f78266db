# SPDX-License-Identifier: Apache-2.0
"""What advice says of memory, without weights, is what `planning` says before a run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.advice import GB, facts

from luthier.advise.facts import Facts, MachineFacts
from luthier.advise.fit import Ask, _work, fits
from luthier.advise.look import bytes_of, look_at_machine, look_at_model
from luthier.core.errors import UserError
from luthier.methods import full, lora
from luthier.models import load_model
from luthier.models.fuse import fuse
from luthier.planning.counts import count
from luthier.planning.need import CONTEXT, need_of
from luthier.recipe import Model, Optim

EMBEDDED = Model(model_name_or_path="embedded")


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize(("name", "r"), [("lora", 4), ("lora", 64), ("full", 0)])
def test_as_the_engine_counts(bf16, name, r):
    machine = MachineFacts(device="cpu", memory=GB, told="--memory", bf16=bf16)
    told = Facts(model=look_at_model(EMBEDDED, machine), data=None, machine=machine, objective="sft")
    found = fits(told, Ask(method=name, r=r, max_length=128, batch=4))
    model = load_model(EMBEDDED, torch.bfloat16 if bf16 else torch.float32)
    fuse(model)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trainable = lora.apply(model, lora.Config(r=r)) if name == "lora" else full.apply(model, full.Config())
    real = need_of(count(trainable), _work(512), Optim(), "cpu")
    assert found.weights == weights
    assert found.need.states == real.states
    assert found.need.passing == pytest.approx(real.passing, rel=0.15)
    # at r = 1 a linear keeps one number of x A^T for each token, at r = 64 it keeps 64
    assert found.need.activations == pytest.approx(real.activations, rel=0.15 if r == 64 else 0.02)
    assert found.total == pytest.approx(real.total, rel=0.1)


@pytest.mark.parametrize("change", [{"batch": 8}, {"max_length": 4096}, {"r": 256}, {"method": "full"}])
def test_more_needs_more(change):
    ask = Ask(method="lora", r=16, max_length=1024, batch=4)
    assert fits(facts(), replace(ask, **change)).total > fits(facts(), ask).total


def test_checkpointing_and_four_bits_need_less():
    ask = Ask(method="lora", r=16, max_length=1024, batch=4)
    plain = fits(facts(), ask)
    again = fits(facts(), replace(ask, checkpointing=True))
    assert again.need.activations < plain.need.activations / 4
    packed = fits(facts(), replace(ask, quantization="nf4"))
    assert packed.weights == pytest.approx(6_979_321_856 * 4.127 / 8 + (8_030_261_248 - 6_979_321_856) * 2, rel=1e-6)
    assert packed.need.activations == plain.need.activations


def test_judged_rows_count_whole_trees():
    judged = facts(data={"judged": True, "longest": 500, "tree": 800}, objective="dpo")
    ask = Ask(method="lora", r=16, max_length=512, batch=2)
    bins = fits(facts(), ask).need.activations
    assert fits(judged, ask).need.activations == pytest.approx(bins * 800 / 512, rel=1e-3)


def test_ninety_percent_is_full():
    ask = Ask(method="lora", r=16, max_length=1024)
    needed = fits(facts(), ask).total
    assert fits(facts(machine={"memory": int(needed / 0.9) + CONTEXT["cuda"] + 10}), ask).ok
    assert not fits(facts(machine={"memory": int(needed / 0.9) + CONTEXT["cuda"] - 10}), ask).ok


@pytest.mark.parametrize("text", ["", "GB", "-3GB", "24 apples", "1e9", "5", "0.2MB", "24GBB"])
def test_sizes_that_are_none(text):
    with pytest.raises(UserError, match=r"--memory: received .*; a size of at least 1MB; write it as 24GB"):
        bytes_of(text)


def test_devices(monkeypatch):
    there = look_at_machine("24GB", "cuda")
    assert (there.device, there.bf16, there.memory) == ("cuda", True, 24 * GB)
    with pytest.raises(UserError, match="cpu or cuda"):
        look_at_machine(None, "tpu")
    monkeypatch.setattr("luthier.advise.look.free_bytes", lambda device: None)
    with pytest.raises(UserError, match="does not tell what it has free; a size; add --memory 24GB"):
        look_at_machine(None, "cpu")


def test_narrow_linears_are_left_out(tmp_path):
    from tests.parity.families import COMMON, PROVEN
    from transformers import AutoConfig

    kind, settings = PROVEN["Qwen2-MoE"]  # its shared expert's gate is 1 x 32
    AutoConfig.for_model(kind, **(COMMON | settings)).save_pretrained(tmp_path)
    machine = MachineFacts(device="cpu", memory=GB, told="--memory", bf16=False)
    found = look_at_model(Model(model_name_or_path=str(tmp_path)), machine)
    assert set(found.exclude) == {"experts", "shared_expert_gate"}
    assert found.smallest >= 8
    assert found.counted == "layers"
