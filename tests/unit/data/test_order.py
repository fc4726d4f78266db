# SPDX-License-Identifier: Apache-2.0
"""Batches are a pure function of the seed and the step."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.data import Batches, eval_batches
from luthier.data.rows import Rows
from luthier.data.store import Row, Store, Writer
from luthier.recipe.schema import Data, Train

LENGTHS = np.random.default_rng(1).integers(2, 60, 101)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Rows:
    """Two sources: 60 rows and 41."""
    folder = tmp_path_factory.mktemp("stores")
    found = []
    for name, lengths in (("a", LENGTHS[:60]), ("b", LENGTHS[60:])):
        with Writer(folder / name) as writer:
            some = [Row(ids=np.full(n, i, np.int32), scored=np.ones(n, bool)) for i, n in enumerate(lengths)]
            writer.add(some, range(len(lengths)), 0)
            writer.commit({"parts": [name]})
        found.append(Store(folder / name))
    return Rows(found)


def batches(
    rows, weights=(1.0, 1.0), seed=7, *, size=2, steps=3, epochs=1.0, max_steps=-1, rank=0, world=1, **keys
) -> Batches:
    data = Data(
        train=[{"path": "x", "weight": weight} for weight in weights], **{"max_length": 64, "packing": True} | keys
    )
    train = Train(
        per_device_train_batch_size=size,
        gradient_accumulation_steps=steps,
        num_train_epochs=epochs,
        max_steps=max_steps,
    )
    return Batches(rows, data, train, seed, rank=rank, world=world)


def seen(found: Batches, steps) -> list[str]:
    return [tree.row for step in steps for micro in found.step(step) for tree in micro]


ALL = sorted([f"a:{i}" for i in range(60)] + [f"b:{i}" for i in range(41)])


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_sees_every_row_once(rows, packing, shuffle):
    found = batches(rows, packing=packing, shuffle=shuffle)
    assert sorted(seen(found, range(found.total_steps))) == ALL


def test_micro_batches(rows):
    found = batches(rows, packing=False)
    assert [len(micro) for micro in found.step(0)] == [2, 2, 2]
    assert found.total_steps == 17  # 101 rows, 6 a step
    assert [len(micro) for micro in found.step(16)] == [2, 2, 1]
    packed = batches(rows)
    for step in range(packed.total_steps):
        micros = packed.step(step)
        assert 1 <= len(micros) <= 3
        assert all(sum(map(len, micro)) <= 2 * 64 for micro in micros)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(12)), packing=st.booleans(), weight=st.sampled_from([1.0, 0.5, 2.5]))
def test_a_step_depends_on_nothing_but_seed_and_number(rows, order, packing, weight):
    fresh = batches(rows, (weight, 1.0), packing=packing, epochs=5.0)
    asked = {step: seen(fresh, [step]) for step in order}
    for step in (0, 5, 11):
        assert seen(batches(rows, (weight, 1.0), packing=packing, epochs=5.0), [step]) == asked[step]


def test_seeds_and_epochs_differ(rows):
    found = batches(rows, epochs=2.0)
    half = found.total_steps // 2
    first, second = seen(found, range(half)), seen(found, range(half, 2 * half))
    assert sorted(first) == sorted(second) == ALL
    assert first != second
    assert seen(batches(rows, seed=8), range(half)) != first


def test_file_order(rows):
    for packing in (True, False):
        found = batches(rows, shuffle=False, packing=packing, epochs=2.0)
        half = found.total_steps // 2
        expected = [f"a:{i}" for i in range(60)] + [f"b:{i}" for i in range(41)]
        assert seen(found, range(half)) == seen(found, range(half, 2 * half)) == expected


def test_weights(rows):
    found = batches(rows, (2.0, 0.5), packing=False, epochs=4.0)
    assert found.total_steps == 4 * -(-(120 + 20) // 6)
    per_epoch = found.total_steps // 4
    drawn = []
    for epoch in range(4):
        counts = Counter(seen(found, range(epoch * per_epoch, (epoch + 1) * per_epoch)))
        assert {counts[f"a:{i}"] for i in range(60)} == {2}
        drawn.append(frozenset(name for name in counts if name.startswith("b")))
        assert len(drawn[-1]) == 20
    assert len(set(drawn)) == 4


def test_fractional_weights_with_packing_lose_no_step(rows):
    found = batches(rows, (0.5, 1.3), epochs=3.0)
    steps = [found._steps_of(epoch) for epoch in range(3)]
    assert found.total_steps == sum(steps)
    assert len(seen(found, range(found.total_steps))) == 3 * (30 + 41 + 12)
    assert found.epoch(steps[0]) == 1.0
    assert found.epoch(found.total_steps) == 3.0


def test_no_row_in_an_epoch(rows):
    with pytest.raises(DataError, match=r"data\.train: the weights leave no row in an epoch"):
        batches(rows, (0.001, 0.001))


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 17), (2.0, 34), (0.5, 9), (1.5, 26), (0.01, 1)])
def test_fractional_epochs(rows, epochs, steps):
    assert batches(rows, packing=False, epochs=epochs).total_steps == steps


def test_max_steps_go_before_epochs_and_around_again(rows):
    found = batches(rows, packing=False, epochs=1.0, max_steps=40)
    assert found.total_steps == 40
    assert sorted(seen(found, range(17, 34))) == ALL


def test_epoch_says_how_far(rows):
    found = batches(rows, packing=False)
    assert found.epoch(0) == 0.0
    assert found.epoch(17) == 1.0
    assert found.epoch(34) == 2.0
    assert 0.05 < found.epoch(1) < 0.06


def test_few_plans_are_kept(rows):
    found = batches(rows, epochs=9.0)
    seen(found, range(found.total_steps))
    assert len(found._plans) == 2


@pytest.mark.parametrize("packing", [True, False])
def test_evaluation_sees_every_row_once(rows, packing):
    data = Data(train="x", max_length=64, packing=packing)
    found = eval_batches(rows, data, Train(per_device_eval_batch_size=3))
    assert sorted(tree.row for batch in found for tree in batch) == ALL
    assert found
    assert len(found[:2]) == 2
    with pytest.raises(IndexError):
        found[len(found)]
    assert [tree.row for tree in found[0]] == [tree.row for tree in next(iter(found))]


def test_sources_and_rows_must_agree(rows):
    with pytest.raises(ValueError, match=r"1 sources in data\.train, 2 in rows"):
        batches(rows, (1.0,))


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_steps_of_one_process_with_a_larger_batch(rows, packing, world):
    whole = batches(rows, packing=packing, size=2 * world, steps=2, epochs=2.0)
    given = {"packing": packing, "size": 2, "steps": 2, "epochs": 2.0}
    shares = [batches(rows, rank=rank, world=world, **given) for rank in range(world)]
    assert {share.total_steps for share in shares} == {whole.total_steps}
    assert all(share.epoch(whole.total_steps) == 2.0 for share in shares)
    for step in range(whole.total_steps):
        own = [seen(share, [step]) for share in shares]
        assert sorted(row for share in own for row in share) == sorted(seen(whole, [step]))
        if not packing:
            assert max(map(len, own)) - min(map(len, own)) <= 1  # also in the small last step of an epoch
        assert all(len(share.step(step)) <= 2 for share in shares)
