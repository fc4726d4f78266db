# SPDX-License-Identifier: Apache-2.0
"""`gradient_checkpointing: auto` is off unless a step would not fit, and what it counts is what is there."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tests.runs import tree

import luthier
from luthier.core.errors import RecipeError
from luthier.engine import loop, machine
from luthier.engine.regional import decoder_layers
from luthier.kernels.native import arena
from luthier.methods import adapter, full, lora, vera
from luthier.models import load_model
from luthier.models.recomputing import recompute_layers
from luthier.planning import fit, free
from luthier.planning.activations import _saved_bytes, bytes_per_token, kept_bytes
from luthier.planning.counts import count
from luthier.planning.need import SHARE, need_of
from luthier.planning.work import Work
from luthier.recipe import Model, Optim, load_recipe


@pytest.fixture
def recipe(tiny_llama, alpaca_file, tmp_path):
    def make(wanted, train=None, **sections):
        train = {"gradient_checkpointing": wanted, "max_steps": 1} | (train or {})
        return load_recipe(tree(tiny_llama, alpaca_file, tmp_path / "run", train=train, **sections))

    return make


@pytest.fixture
def trainable(tiny_llama):
    return lora.apply(load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32), lora.Config(r=4))


ADAMW = Optim()


def work(tokens=4096):
    whole = {"steps": 4, "all_tokens": 4 * tokens, "all_scored": 4 * tokens, "all_pairs": 0, "passes": 4}
    return Work(tokens=tokens, scored=tokens, mean=tokens, micro_batches=1, **whole)


def need(trainable, recomputed=0, optim=ADAMW, tokens=4096):
    return need_of(count(trainable), work(tokens), optim, "cpu", recomputed=recomputed)


def decide(recipe, trainable, free):
    said: list[str] = []
    fitted = fit.fit_memory(recipe.recipe, trainable, work(), said.append, free)
    chosen = fitted.layers.chosen
    assert bool(chosen) == trainable.model.is_gradient_checkpointing
    recomputing = [getattr(layer, "gradient_checkpointing", False) for layer in decoder_layers(trainable.model)]
    assert recomputing == [place in chosen for place in range(len(recomputing))]
    return fitted.layers.recomputed, said


def enough(needed):
    return int(needed.growth / SHARE) + 1024


def test_off_unless_needed(recipe, trainable):
    assert decide(recipe("auto"), trainable, free=1 << 40) == (0, [])
    assert decide(recipe("auto"), trainable, free=enough(need(trainable))) == (0, [])


def test_as_few_layers_as_it_takes(recipe, trainable):
    one = need(trainable, recomputed=1)
    assert one.growth < need(trainable).growth
    number, said = decide(recipe("auto"), trainable, free=enough(one))
    assert number == 1
    told = f"{fit.told(one)}, {free.size(enough(one))} free"
    assert said == [f"gradient checkpointing is on in 1 of 2 layers: {told}"]


def test_all_layers_where_that_is_what_it_takes(recipe, trainable):
    number, said = decide(recipe("auto"), trainable, free=enough(need(trainable, recomputed=2)))
    assert number == 2
    assert said[0].startswith("gradient checkpointing is on: activations ")


@pytest.mark.parametrize(("wanted", "number"), [(True, 2), (False, 0), (0.5, 1), ([1], 1)])
def test_a_choice_is_kept(recipe, trainable, wanted, number):
    given = recipe(wanted)
    assert decide(given, trainable, free=1 << 40)[0] == number
    assert wanted != [1] or trainable.model.model.layers[1].gradient_checkpointing


def test_what_does_not_fit_is_refused_and_can_be_forced(recipe, trainable):
    with pytest.raises(RecipeError, match=r"train: a run that does not fit: .* free; .*; or set train.skip_m"):
        decide(recipe("auto"), trainable, free=1 << 20)
    forced = recipe("auto", train={"skip_memory_check": True})
    assert decide(forced, trainable, free=1 << 20)[0] == 2


def test_an_architecture_without(recipe, trainable):
    trainable.model.supports_gradient_checkpointing = False
    assert decide(recipe("auto", train={"skip_memory_check": True}), trainable, free=1) == (0, [])
    with pytest.raises(RecipeError, match=r"train.gradient_checkpointing: .* cannot recompute its layers; auto or fal"):
        decide(recipe(True), trainable, free=1)


def test_a_whole_run_says_so(recipe, monkeypatch):
    monkeypatch.setattr(fit, "free_bytes", lambda device: 1 << 20)
    said: list[str] = []
    result = luthier.train(recipe("auto", train={"skip_memory_check": True}), say=said.append)
    assert any(line.startswith("gradient checkpointing is on: activations ") for line in said)
    assert result.model.is_gradient_checkpointing


def test_ranks_on_a_processor_share_what_is_free(recipe, trainable, monkeypatch):
    monkeypatch.setattr(fit, "free_bytes", lambda device: enough(need(trainable)))
    forced = recipe("auto", train={"skip_memory_check": True}).recipe
    for ranks, on in ((1, False), (2, True)):
        fitted = fit.fit_memory(forced, trainable, work(), lambda _: None, ranks=ranks)
        assert (fitted.layers.recomputed > 0) is on


def test_states(tiny_llama):
    model = load_model(Model(model_name_or_path=str(tiny_llama)), torch.bfloat16)
    trainable = full.apply(model, full.Config())
    numbers = trainable.num_trainable
    wanted = {"adamw": 16, "sgd": 8, "adafactor": 8}  # gradient 4, float32 master 4, two moments 8
    for name, size in wanted.items():
        assert need(trainable, optim=Optim(optim=name)).states == size * numbers
    assert need(trainable, optim=Optim(optim="sgd", momentum=0.9)).states == 12 * numbers


def test_without_the_arena_gaps_grow_with_the_steps_to_a_bound(trainable, monkeypatch):
    counts = count(trainable)
    monkeypatch.setattr(arena, "usable", lambda: False)
    found = [need_of(counts, replace(work(), steps=steps), ADAMW, "cpu") for steps in (1, 8, 40, 1000, 2000)]
    gaps = [one.gaps for one in found]
    assert gaps == sorted(gaps)
    assert gaps[0] < gaps[1] < gaps[2]
    assert gaps[3] == pytest.approx(gaps[4], rel=0.01)
    assert gaps[4] < 3 * found[4].activations
    assert need_of(counts, work(), ADAMW, "cuda").gaps == 0
    monkeypatch.setattr(arena, "usable", lambda: True)
    close = need_of(counts, work(), ADAMW, "cpu")
    assert close.gaps == 0
    assert close.total < need_of(counts, replace(work(), micro_batches=2), ADAMW, "cpu").total, "gradients that wait"


@pytest.mark.skipif(not arena.usable(), reason=f"arena: {arena.describe()}")
@pytest.mark.parametrize("method", ["full", "lora", "lokr", "bitfit"])
def test_tensors_of_a_run_are_those_of_its_plan(method, tmp_path):
    """At the highest point of three steps of the built-in model, small tensors left out."""
    train = {"max_steps": 3, "per_device_train_batch_size": 4}
    model = {"model_name_or_path": "embedded", "dtype": "float32"}
    about = {"data": {"train": "embedded:train", "max_length": 512}, "model": model}
    words = {"name": method} | ({"add_biases": True} if method == "bitfit" else {})
    run = luthier.train(about | {"method": words, "train": train, "output_dir": str(tmp_path / "run")})
    planned = run.summary["plan"]["memory"]
    beside = sum(planned[name] for name in ("weights", "adapters", "framework"))  # loaded before, or no tensors
    assert planned["phases"]["step"] - beside == pytest.approx(arena.used_bytes()[1], rel=0.12)


@pytest.mark.skipif(not arena.usable(), reason=f"arena: {arena.describe()}")
def test_counting_leaves_nothing():
    """ReLU saves its own result: kept by the one who counts, it kept the whole pass, 40 MiB of a 110 M model."""
    model = adapter.apply(load_model(Model(model_name_or_path="embedded"), torch.float32), adapter.Config()).model
    with arena.entered():
        before = arena.used_bytes()[0]
        assert kept_bytes(model).per_token > 0
        assert arena.used_bytes()[0] == before


def test_recomputing_leaves_less(trainable):
    before = bytes_per_token(trainable.model)
    recompute_layers(trainable.model)
    assert bytes_per_token(trainable.model) < before / 4


@pytest.mark.parametrize("method", [lora, vera], ids=["lora", "vera"])
def test_matrices_that_a_pass_makes_anew_are_there_once(tiny_llama, method):
    model = method.apply(load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32), method.Config()).model
    kept = kept_bytes(model)
    assert (kept.once > 0) == (method is vera), "VeRA scales its shared matrices in each layer"
    longer = _saved_bytes(model, 96, 96)
    assert kept.once + 96 * (kept.per_token + kept.per_scored) == pytest.approx(longer, rel=1e-3)


def test_counting_changes_nothing(tiny_llama):
    trainable = lora.apply(
        load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32), lora.Config(lora_dropout=0.5)
    )
    torch.manual_seed(5)
    state = torch.get_rng_state()
    trainable.model.eval()
    assert bytes_per_token(trainable.model) > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert not trainable.model.training
    assert all(p.grad is None for p in trainable.model.parameters())


def test_layers(trainable):
    assert decoder_layers(trainable.model) == list(trainable.model.model.layers)


def test_free_memory():
    found = free.free_bytes(torch.device("cpu"))
    assert found is None or 1 << 20 < found < 1 << 50


MEASURE = """
import ctypes, gc, sys
import numpy as np, torch
from luthier.core.types import Segment, Tree
from luthier.engine import loop, machine
from luthier.kernels.forest import plant
from luthier.methods import full, lora, vera
from luthier.models import load_model, scored_logprobs
from luthier.planning.counts import count
from luthier.planning.need import need_of
from luthier.planning.work import Work
from luthier.recipe import Model, Optim

def resident():
    lines = [line.split() for line in open("/proc/self/status") if line.startswith("Vm")]
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines}

model = load_model(Model(model_name_or_path="embedded"), getattr(torch, sys.argv[2]))
method = {"full": full, "lora": lora}[sys.argv[1]]
trainable = method.apply(model, method.Config())
model.train()
def forest(count, length):
    one = Segment(ids=np.arange(length, dtype=np.int32), scored=np.ones(length, np.bool_))
    return plant([Tree(segments=(one,))] * count)
scored_logprobs(model, forest(1, 64)).sum().backward()  # libraries load, gradients are there
whole = {"steps": 4, "all_tokens": 8192, "all_scored": 8192, "all_pairs": 0, "passes": 4}
work = Work(tokens=8192, scored=8192, mean=8192, micro_batches=1, **whole)
needed = need_of(count(trainable), work, Optim(), "cpu")
machine.reset_peak()
before = resident()["VmRSS"]
out = scored_logprobs(model, forest(16, 512))
grown = resident()["VmRSS"] - before
out.sum().backward()
print(grown, resident()["VmHWM"] - before, needed.activations, needed.activations + needed.passing + needed.logits)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("method", "dtype"), [("full", "float32"), ("lora", "bfloat16")])
def test_the_count_against_the_measured_growth(method, dtype):
    """With each tensor mapped on its own (so that glibc leaves no gaps) the count is within 15 % of what resides."""
    alone = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, method, dtype], env=alone, capture_output=True, text=True, check=True
    )
    grown, peak, activations, total = map(int, done.stdout.split())
    assert activations == pytest.approx(grown, rel=0.15)
    assert 0.9 * peak < total < 1.5 * peak


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_peak_is_a_runs_own():
    machine.reset_peak()
    before = machine.peak_memory_bytes()
    large = torch.ones(64 << 20)
    assert machine.peak_memory_bytes() - before > 240 << 20
    del large
    machine.reset_peak()
    assert machine.peak_memory_bytes() - before < 32 << 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_smaller_second_run_reports_its_own_peak(recipe, monkeypatch):
    """The first run holds 256 MiB more for a moment; nothing of it is in the second one's peak."""
    original = loop.accumulate

    def heavy(*given):
        ballast = torch.ones(64 << 20)
        return original(*given) if ballast.numel() else None

    with monkeypatch.context() as patch:
        patch.setattr(loop, "accumulate", heavy)
        large = luthier.train(recipe(False))
    small = luthier.train(recipe(False), overwrite=True)
    assert large.summary["peak_memory_bytes"] - small.summary["peak_memory_bytes"] > 200 << 20
