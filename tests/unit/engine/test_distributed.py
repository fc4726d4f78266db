# SPDX-License-Identifier: Apache-2.0
"""Ranks: where a process stands, and what several say to each other."""

from __future__ import annotations

import os
import time

import pytest
import torch
from tests.ranks import on_ranks
from tests.runs import Command

from luthier.core.errors import UserError
from luthier.engine.distributed import (
    ALONE,
    Ranks,
    buckets,
    checksums,
    joined,
    place_here,
)
from luthier.engine.step import StepResult, merged

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


def test_place_of_a_rank():
    assert place_here(TORCHRUN) == Ranks(rank=3, world=4, local=1, local_world=2)
    assert place_here({}) is place_here({"WORLD_SIZE": "1", "RANK": "0"}) is ALONE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": ""}, "WORLD_SIZE is '4', and RANK is ''"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many', and WORLD_SIZE is 'many'"),
        ({"RANK": "4"}, "RANK is 4 of 4, LOCAL_RANK 1 of 2"),
        ({"LOCAL_RANK": "2"}, "RANK is 3 of 4, LOCAL_RANK 2 of 2"),
    ],
)
def test_an_environment_that_makes_no_sense(change, message):
    with pytest.raises(UserError, match="start with torchrun, or unset WORLD_SIZE") as raised:
        place_here(TORCHRUN | change)
    assert message in str(raised.value)


def test_alone_nothing_is_started(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.full((2,), 3.0)
    with joined() as ranks:
        assert ranks is ALONE
        assert (ranks.gather("x"), ranks.count(5), ranks.either(True, False)) == (["x"], 5, (True, False))
        ranks.add_gradients([parameter])
        ranks.check_same({"p": parameter}, "here")
        ranks.wait()
    assert parameter.grad.tolist() == [3.0, 3.0]
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("words", [("compare", "none.yaml"), ("demo",)])
def test_studies_are_refused(words, monkeypatch, capsys):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    said = Command(capsys)(*words, "--json")
    assert said.code == 2
    assert said.out == ""  # rank 3 leaves stdout to rank 0
    assert said.err.startswith(f"error of rank 3: luthier {words[0]}: started by torchrun as one of 4 processes; ")


def test_a_cohort_is_refused(monkeypatch):
    from luthier.cohort import train_together

    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="a cohort"):
        next(iter(train_together([])))


def test_buckets():
    tensors = [torch.zeros(n) for n in (3, 3, 5, 9, 1)] + [torch.zeros(2, dtype=torch.float64), torch.zeros(3)]
    found = [[tuple(t.shape) for t in bucket] for bucket in buckets(tensors, size=8)]
    assert found == [[(3,), (3,)], [(5,)], [(9,)], [(1,)], [(2,)], [(3,)]]
    assert list(buckets([])) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_checksums_see_one_bit(dtype):
    parameter = torch.nn.Parameter(torch.randn(64, 3).to(dtype))
    before = checksums({"p": parameter})
    assert checksums({"p": torch.nn.Parameter(parameter.detach().clone())}) == before
    with torch.no_grad():
        parameter[5, 1] = torch.nextafter(parameter[5, 1], torch.tensor(9.0, dtype=dtype))
    assert checksums({"p": parameter}) != before
    assert checksums({}) == {}


def result(loss, rows, **sums):
    return StepResult(sums={"loss": loss, **sums}, units=7, tokens=10, scored_tokens=4, pairs=20, rows=rows)


def test_shares_of_a_step():
    found = merged([result(1.0, ("a",), kl=2.0), result(0.0, ()), result(2.5, ("b", "c"))])
    assert found.sums == {"loss": 3.5, "kl": 2.0}
    assert (found.units, found.tokens, found.scored_tokens, found.pairs) == (7, 30, 12, 60)
    assert found.rows == ("a", "b", "c")
    assert merged([result(1.0, ("a",)), result(float("nan"), ("b", "c"))]).rows == ("b", "c")
    one = result(1.25, ("a", "b"), kl=0.1)
    assert merged([one]) == one


def test_words_between_ranks(tmp_path):
    def work(ranks):
        made = []
        ranks.one_first(lambda: made.append((tmp_path / "made").exists()) or (tmp_path / "made").touch())
        told = ranks.from_first(lambda: {"rank": ranks.rank})
        flags = ranks.either(ranks.rank == 2, False)
        return ranks.gather(ranks.rank * 10), ranks.count(ranks.rank + 1), told, flags, made, ranks.first

    found = on_ranks(3, work)
    assert [answer[:4] for answer in found] == [([0, 10, 20], 6, {"rank": 0}, (True, False))] * 3
    assert [answer[4] for answer in found] == [[False], [True], [True]]  # rank 0 first, the others find its work
    assert [answer[5] for answer in found] == [True, False, False]


def test_gradients_are_added_up():
    def work(ranks):
        parameters = [torch.nn.Parameter(torch.zeros(2, 3)), *(torch.nn.Parameter(torch.zeros(4)) for _ in range(2))]
        parameters[0].grad = torch.full((2, 3), 1.0 + ranks.rank)
        if ranks.rank == 1:
            parameters[1].grad = torch.arange(4.0)
        ranks.add_gradients([parameters[0], *parameters])  # a tied one counts once
        return [None if p.grad is None else p.grad.tolist() for p in parameters]

    wanted = [[[3.0] * 3] * 2, [0.0, 1.0, 2.0, 3.0], None]
    assert on_ranks(2, work) == [wanted, wanted]


def test_replicas_that_differ():
    def work(ranks):
        parameters = {"same": torch.nn.Parameter(torch.ones(3)), "odd": torch.nn.Parameter(torch.ones(3))}
        ranks.check_same(parameters, "step 1")
        if ranks.rank == 1:
            parameters["odd"].data[0] += 1e-7
        ranks.check_same(parameters, "step 2")

    for error in on_ranks(2, work):
        assert error.kind == "RunFailed"
        assert "step 2: ranks hold different weights (1 parameters: odd ...)" in error.message


def test_dropout_differs_by_rank_and_rank_0_is_as_alone():
    def work(ranks):
        torch.manual_seed(5)
        ranks.seed_apart(5)
        return torch.rand(3).tolist()

    torch.manual_seed(5)
    alone = torch.rand(3).tolist()
    found = on_ranks(3, work)
    assert found[0] == alone
    assert len({tuple(drawn) for drawn in found}) == 3


def test_a_rank_that_dies_ends_the_others():
    def work(ranks):
        ranks.wait()
        if ranks.rank == 1:
            os._exit(9)
        ranks.gather(0)

    began = time.monotonic()
    error, dead = on_ranks(2, work)
    assert dead is None
    assert error.kind == "RunFailed"
    assert "rank 0 of 2: another rank has ended" in error.message
    assert "go on with --resume" in error.message
    assert time.monotonic() - began < 20
