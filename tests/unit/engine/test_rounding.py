# SPDX-License-Identifier: Apache-2.0
"""Rounding at random: unbiased, a function of seed and step, and enough to train bfloat16 weights without masters."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tests.runs import bits, stop_before, tree
from tests.tiny import tiny

import luthier
from luthier.core import registry
from luthier.core.trainable import ParameterGroup
from luthier.engine import rounding
from luthier.engine.optim import build_optimizer, set_learning_rate
from luthier.engine.precision import Masters
from luthier.engine.rounding import Rounded, round_at_random
from luthier.methods import full
from luthier.models import load_model
from luthier.planning import counts as counting
from luthier.planning.need import need_of
from luthier.planning.work import Work
from luthier.recipe import Model, Optim, load_recipe
from luthier.study.memory import state_bytes


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_mean_is_the_value():
    """100,000 roundings of each value: the mean is within 5 standard errors, at most half an ulp / sqrt(n) each."""
    torch.manual_seed(0)
    values = torch.cat([torch.randn(40), torch.tensor([1e-30, -3e20, 1.0, -1.0, 0.0, 1 + 2**-9, 1e-40])])
    found = round_at_random(values.expand(100_000, -1), draw()).double()
    below = values.bfloat16().double()
    ulp = (2.0 ** (torch.floor(torch.log2(values.abs().double().clamp_min(2.0**-126))) - 7)).clamp_min(2.0**-133)
    assert ((found.mean(0) - values.double()).abs() <= 5 * 0.5 * ulp / 100_000**0.5).all()
    assert ((found - values.double()).abs() < ulp).all(), "one of the two neighbours"
    exact = below == values.double()
    assert exact[-5:-2].all()
    assert (found[:, exact] == below[exact]).all(), "what is bfloat16 already stays"


def test_what_is_not_finite_stays():
    odd = torch.tensor([float("inf"), -float("inf"), float("nan")])
    found = round_at_random(odd, draw())
    assert found[:2].tolist() == odd[:2].tolist()
    assert found[2].isnan()
    payload = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)  # a carry would make -0 of it
    assert round_at_random(payload, draw()).isnan().all()


def test_a_transposed_tensor():
    values = torch.randn(5, 7).T
    assert torch.equal(round_at_random(values, draw()), round_at_random(values.contiguous(), draw()))


def regression(seed=0):
    """Least squares far from its solution, and what 16 features weigh in it."""
    torch.manual_seed(seed)
    x = torch.randn(64, 16)
    return x, x @ (1 + torch.rand(16, 1))


def trained(how, optim, steps=800, rate=2e-4, seed=0):
    """Train w of 16 bfloat16 numbers that start at 1; the squared error at the end, in float32."""
    x, y = regression()
    weight = torch.nn.Parameter(torch.ones(16, 1, dtype=torch.bfloat16))
    trainable = SimpleNamespace(
        groups=(ParameterGroup(parameters={"w": weight}),), parameters=lambda: {"w": weight}, transforms={}
    )
    masters = {"masters": Masters, "rounded": lambda t: Rounded(t, seed), "nearest": lambda t: Nearest(t, seed)}[how](
        trainable
    )
    optimizer = build_optimizer(Optim(optim=optim), trainable, masters.twins)
    for step in range(steps):
        (x.bfloat16() @ weight - y).float().pow(2).mean().backward()
        set_learning_rate(optimizer, rate)
        masters.move(optimizer, step)
    return float((x @ weight.detach().float() - y).pow(2).mean())


class Nearest(Rounded):
    """What plain bfloat16 training does: the update is rounded to the nearest."""

    def move(self, optimizer, step):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rounding, "round_at_random", lambda values, _: values.bfloat16())
            super().move(optimizer, step)


@pytest.mark.parametrize("optim", ["adamw", "lion"])
def test_it_follows_float32_masters_where_plain_bfloat16_stands_still(optim):
    """AdamW's and Lion's steps of 2e-4 are a twentieth of an ulp at 1: rounded to the nearest, nothing ever moves."""
    start = float((regression()[0] @ torch.ones(16, 1) - regression()[1]).pow(2).mean())
    masters, rounded, nearest = (trained(how, optim) for how in ("masters", "rounded", "nearest"))
    assert nearest == pytest.approx(start, rel=1e-6), "it stands still"
    assert masters < 0.75 * start
    assert rounded == pytest.approx(masters, rel=0.1)


def test_the_draws_are_of_seed_and_step():
    found = [trained("rounded", "adamw", steps=40, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize("most", [1, 700, 1 << 24], ids=["one by one", "a few", "all"])
@pytest.mark.parametrize("optim", ["adamw", "sgd", "adafactor", "lion"])
def test_how_many_move_at_a_time_does_not_matter(optim, most, monkeypatch):
    """Each parameter moves once, float32 ones too; the reference rounds what masters of the same numbers become."""
    monkeypatch.setattr(rounding, "AT_A_TIME", most)
    model = tiny("llama").bfloat16()
    model.lm_head.float()
    trainable = full.apply(model, full.Config())
    section = Optim(optim=optim, learning_rate=0.01, groups=[{"parameters": "norms", "learning_rate_scale": 2.0}])
    masters = Rounded(trainable, seed=3)
    optimizer = build_optimizer(section, trainable, masters.twins)
    copies = {name: torch.nn.Parameter(p.detach().float()) for name, p in trainable.parameters().items()}
    reference = build_optimizer(section, trainable, copies)
    for name, twin in masters.twins.items():
        twin.grad = torch.randn(twin.shape) if name != "model.norm.weight" else None
        copies[name].grad = None if twin.grad is None else twin.grad.clone()
    kept = {name: p.detach().clone() for name, p in trainable.parameters().items()}
    for one in (optimizer, reference):
        set_learning_rate(one, 0.01)
    reference.step()
    masters.move(optimizer, 0)
    for name, parameter in trainable.parameters().items():
        wanted = copies[name].detach()
        apart = (parameter.float() - wanted).abs()
        assert (apart <= 2**-7 * wanted.abs() + 1e-9).all() if parameter.dtype == torch.bfloat16 else not apart.any()
        assert torch.equal(parameter, kept[name]) == (name == "model.norm.weight")
        assert masters.twins[name].grad is None
    assert masters.kept["model.embed_tokens.weight"] is model.model.embed_tokens.weight
    assert masters.twins["model.embed_tokens.weight"].untyped_storage().nbytes() == 4, "no master stays"


def test_memory_is_counted_without_masters(tiny_llama):
    model = load_model(Model(model_name_or_path=str(tiny_llama)), torch.bfloat16)
    trainable = registry.get("methods", "full").apply(model, full.Config())
    counts = counting.count(trainable)
    work = Work(
        tokens=64, scored=64, mean=64, micro_batches=1, steps=1, all_tokens=64, all_scored=64, all_pairs=0, passes=1
    )

    def states(**keys):
        return need_of(counts, work, Optim(**keys), "cpu").states

    with_masters, without = states(), states(weights="bfloat16_stochastic")
    eight_bit = states(optim="adamw_8bit", weights="bfloat16_stochastic")
    count = trainable.num_trainable
    assert with_masters == 16 * count
    assert without == 16 * count, "so small a model is float32 all at a time"
    assert eight_bit == 10 * count


@pytest.mark.parametrize("optim", ["adamw", "lion"])
def test_a_run_stopped_and_resumed_ends_in_the_same_bits(tiny_llama, alpaca_file, tmp_path, optim):
    def recipe(folder):
        return tree(
            tiny_llama,
            alpaca_file,
            tmp_path / folder,
            model={"dtype": "bfloat16"},
            method="full",
            optim={"weights": "bfloat16_stochastic", "optim": optim},
            train={"save_steps": 2},
        )

    result = luthier.train(recipe("whole"))
    stop_before(3, recipe("stopped"))
    luthier.train(recipe("stopped"), resume=True)
    assert bits(tmp_path / "whole") == bits(tmp_path / "stopped")
    assert all(p.dtype == torch.bfloat16 for p in result.model.parameters())
    section = load_recipe(recipe("whole")).recipe.optim
    assert state_bytes(result, Optim()) - state_bytes(result, section) == 4 * result.trainable.num_trainable
