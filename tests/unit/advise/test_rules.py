# SPDX-License-Identifier: Apache-2.0
"""Facts -> advice: what must hold of every model, all rows and any memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.advice import GB, facts, some_facts

from luthier.advise import advise
from luthier.advise.choice import choose
from luthier.advise.fit import fits
from luthier.advise.sources import SOURCES
from luthier.advise.steps import step_size
from luthier.advise.value import SURE
from luthier.core import registry
from luthier.recipe import load_recipe

BASE = {"model": {"model_name_or_path": "embedded"}, "data": {"train": "embedded:train"}, "output_dir": "runs/x"}
BATCH = "train.per_device_train_batch_size"
ALWAYS = {
    "model.dtype",
    "data.max_length",
    "method.name",
    "objective.name",
    "optim.learning_rate",
    "optim.warmup_ratio",
    "optim.weight_decay",
    "train.num_train_epochs",
    BATCH,
    "train.gradient_accumulation_steps",
    "train.gradient_checkpointing",
}
LORA = {"method.r", "method.lora_alpha", "method.use_rslora", "method.target_modules"}


def value(found, key):
    return found.values[key]


@given(some_facts())
def test_every_value_has_a_reason_a_source_and_a_certainty(given_facts):
    found = advise(given_facts)
    keys = [row.key for row in found.rows]
    assert len(keys) == len(set(keys))
    assert set(keys) >= ALWAYS
    assert (set(keys) >= LORA) == (value(found, "method.name") == "lora")
    for row in found.rows:
        assert len(row.reason) > 10, row
        assert row.sources, row
        assert set(row.sources) <= set(SOURCES), row
        assert row.sure in SURE, row


@given(some_facts())
def test_what_comes_of_it_is_a_recipe_that_agrees_with_the_advice(given_facts):
    found = advise(replace(given_facts, machine=replace(given_facts.machine, quantizations=())))
    resolved = load_recipe(found.tree(BASE))
    assert {key: own for key, (own, same) in found.differences(resolved.recipe).items() if not same} == {}
    assert found.remarks(resolved.recipe) == []


@given(some_facts(), st.integers(1, 40))
def test_more_memory_never_gives_a_smaller_batch(given_facts, factor):
    more = replace(given_facts, machine=replace(given_facts.machine, memory=given_facts.machine.memory * factor // 4))
    few, many = sorted((given_facts, more), key=lambda one: one.machine.memory)
    one, other = advise(few), advise(many)
    assert value(one, BATCH) <= value(other, BATCH)
    assert one.choice.fit.ok <= other.choice.fit.ok
    for key in ("data.max_length", "train.num_train_epochs"):  # memory has no say in these
        assert value(one, key) == value(other, key)
    sizes = {value(f, BATCH) * value(f, "train.gradient_accumulation_steps") for f in (one, other)}
    assert len(sizes) == 1, "the step is the rows' affair, memory only cuts it"


@pytest.mark.parametrize("rows", [7_473, 500_000])
@pytest.mark.parametrize("quantizations", [(), ("nf4",)], ids=["16 bits", "4 bits too"])
def test_from_nothing_to_plenty(rows, quantizations):
    """Through every stage: nothing fits, four bits, lower ranks, checkpointing, whole steps, full fine-tuning."""
    short = {"rows": rows, "mean": 100.0, "median": 90, "p95": 150, "p99": 180, "longest": 200, "tree": 200}
    found = [
        advise(facts(data=short, machine={"memory": gigabytes * GB // 2, "quantizations": quantizations}))
        for gigabytes in range(8, 400)
    ]
    batches = [value(one, BATCH) for one in found]
    assert batches == sorted(batches)
    assert [one.choice.fit.ok for one in found] == sorted(one.choice.fit.ok for one in found)
    asks = [one.choice.ask for one in found]
    assert any(ask.checkpointing for ask in asks)
    assert any(ask.batch > 1 for ask in asks)
    assert any(ask.quantization == "nf4" for ask in asks) == bool(quantizations)
    assert any(ask.method == "full" for ask in asks) == (rows > 100_000)


@given(some_facts())
def test_what_is_advised_fits_or_says_so(given_facts):
    found = advise(given_facts)
    ask = found.choice.ask
    assert found.choice.fit == fits(given_facts, ask)
    assert (ask.method, ask.batch, ask.max_length) == (
        value(found, "method.name"),
        value(found, BATCH),
        value(found, "data.max_length"),
    )
    assert found.choice.fit.ok != any(note.startswith("does not fit: ") for note in found.notes)
    if found.choice.fit.ok and ask.batch < step_size(given_facts, ask.max_length) and ask.quantization == "none":
        twice = replace(ask, batch=2 * ask.batch, checkpointing=False)
        assert not fits(given_facts, twice).ok or found.choice.lowered


@given(some_facts())
def test_ranks_fit_the_smallest_linear(given_facts):
    found = advise(given_facts)
    if value(found, "method.name") == "lora":
        assert 1 <= value(found, "method.r") <= given_facts.model.smallest
        assert value(found, "method.use_rslora") == (value(found, "method.r") > 16)


@given(some_facts())
def test_positions_are_a_limit(given_facts):
    limit = given_facts.model.positions
    assert limit is None or value(advise(given_facts), "data.max_length") <= limit


@pytest.mark.parametrize(
    ("rows", "r"), [(500, 8), (7_473, 16), (50_000, 64), (500_000, 256)], ids=["few", "some", "many", "very many"]
)
def test_rank_grows_with_the_rows(rows, r):
    found = advise(facts(data={"rows": rows}))
    assert (value(found, "method.name"), value(found, "method.r")) == ("lora", r)


def test_a_rank_that_does_not_fit_is_lowered_and_that_is_said():
    roomy, tight = (advise(facts(data={"rows": 500_000}, machine={"memory": m * GB})) for m in (80, 26))
    assert value(roomy, "method.r") == 256
    assert value(tight, "method.r") < 256
    row = next(row for row in tight.rows if row.key == "method.r")
    assert "ask for 256, which does not fit" in row.reason
    assert row.sure == "low"


def test_a_narrow_linear_is_named_as_the_limit():
    found = advise(facts(model={"smallest": 12}))
    row = next(row for row in found.rows if row.key == "method.r")
    assert row.value == 8
    assert "the smallest linear has a side of 12" in row.reason
    assert "smallest" not in next(row.reason for row in advise(facts()).rows if row.key == "method.r")


def test_full_where_there_are_very_many_rows_and_the_memory():
    many = {"rows": 600_000}
    assert value(advise(facts(data=many, machine={"memory": 300 * GB})), "method.name") == "full"
    assert value(advise(facts(machine={"memory": 300 * GB})), "method.name") == "lora"
    held_back = advise(facts(data=many))
    row = next(row for row in held_back.rows if row.key == "method.name")
    assert row.value == "lora"
    assert "does not fit here" in row.reason
    judged = facts(data=many | {"judged": True}, machine={"memory": 300 * GB}, objective="dpo")
    assert value(advise(judged), "method.name") == "lora"


def test_a_base_in_four_bits_only_where_sixteen_do_not_fit_and_the_version_offers_it():
    tight, roomy = {"memory": 12 * GB}, {"memory": 24 * GB}
    offered = {"quantizations": ("int8", "nf4")}
    assert advise(facts(machine=tight | offered)).values["model.quantization"] == "nf4"
    assert "model.quantization" not in advise(facts(machine=roomy | offered)).values
    without = advise(facts(machine=tight))
    assert "model.quantization" not in without.values
    assert "a base in NF4 would need 6." in without.notes[0]
    assert "which this version does not offer" in without.notes[0]


def test_shorter_rows_are_named_as_a_way_out():
    long = {"longest": 8000, "p99": 8000, "tree": 8000}
    found = advise(facts(data=long, machine={"memory": 20_500_000_000}))
    assert not found.choice.fit.ok
    assert "data.max_length=" in found.notes[0]


@pytest.mark.parametrize("method", registry.entries("methods"))
def test_a_method_that_is_held_to(method):
    found = advise(facts(method=method))
    assert value(found, "method.name") == method
    assert value(found, "optim.learning_rate") > 0
    if method != "lora":
        assert "method.r" not in found.values
    if method != "bitfit":  # Llama has no biases; that is the method's to say
        assert load_recipe(found.tree(BASE)).recipe.method["name"] == method


@pytest.mark.parametrize(
    ("changes", "length"),
    [
        ({"longest": 60, "p99": 50, "p95": 40, "median": 20, "mean": 20}, 64),
        ({"longest": 100, "p99": 50, "p95": 40, "median": 20, "mean": 20}, 128),  # whole, being so near
        ({"longest": 9000, "p99": 500, "p95": 400, "median": 100, "mean": 120}, 1024),  # a few are far longer
        ({"longest": 500, "p99": 490, "p95": 480, "median": 470, "mean": 460}, 1024),  # two rows a bin
    ],
)
def test_lengths(changes, length):
    found = advise(facts(data=changes))
    assert value(found, "data.max_length") == length
    reason = next(row.reason for row in found.rows if row.key == "data.max_length")
    assert ("none is cut" in reason) == (changes["longest"] <= length)


def test_a_choice_is_the_same_each_time():
    one = facts()
    assert choose(one, 1024, 4) == choose(one, 1024, 4)
    assert advise(one) == advise(one)
